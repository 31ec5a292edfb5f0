"""A model hub on loopback: the endpoints that huggingface_hub asks for a listing and for files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` by repository and name. `cut`: the next transfer ends after so many bytes.

    `lie`: the listing's sha256 is of other bytes than those served. `ranges` that were asked for.
    """

    files: dict[str, dict[str, bytes]]
    url: str = ""
    cut: int | None = None
    lie: bool = False
    ranges: list[str] = field(default_factory=list)


@contextmanager
def hub(files: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    state = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        if match is None:
            self._file(body=True)
            return
        files = self.hub.files.get(match[1])
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = []
        for name, content in files.items():
            sha = hashlib.sha256(b"other" if self.hub.lie else content).hexdigest()
            lfs = {"sha256": sha, "size": len(content), "pointerSize": 134}
            siblings.append({"rfilename": name, "size": len(content), "lfs": lfs, "blobId": "0"})
        listing = {"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _file(self, *, body: bool) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path.partition("?")[0])
        content = self.hub.files.get(match[1], {}).get(match[2]) if match else None
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        tag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "X-Linked-Etag": f'"{tag}"'}
        headers |= {"X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if not body:
            self._send(200, b"", headers | {"Content-Length": str(len(content))})
            return
        if asked:
            self.hub.ranges.append(asked[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        cut, self.hub.cut = self.hub.cut, None
        headers["Content-Length"] = str(len(rest))
        self._send(206 if asked else 200, rest if cut is None else rest[:cut], headers)
        if cut is not None:
            self.close_connection = True

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
