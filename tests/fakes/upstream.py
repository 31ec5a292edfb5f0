"""An upstream on a real socket that misbehaves by plan: one script per request.

A script is a coroutine that gets the `Conversation` and does what a server should not, or should.
`FakeUpstream` takes scripts in order, the last one for all requests that follow, and keeps what it
has seen: connections, requests, and who hung up.

    async with FakeUpstream(sse(chunk("hi"), finish(), DONE)) as upstream:
        ... talk to upstream.base_url ...
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Conversation:
    """One request and the raw means to answer it."""

    request: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    hung_up: asyncio.Event
    keep_alive: bool = False

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, /, **headers: str) -> None:
        """A response head; `content_type="text/html"` names a header."""
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def stream_head(self) -> None:
        await self.head(content_type="text/event-stream", transfer_encoding="chunked")

    async def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        """The proper end of a chunked body; the connection may be used again."""
        await self.raw(b"0\r\n\r\n")
        self.keep_alive = True

    async def hang(self) -> None:
        """Say nothing more until the other side hangs up."""
        while await self.reader.read(4096):
            pass
        self.hung_up.set()

    def reset(self) -> None:
        """Drop the connection with a TCP RST."""
        sock = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:  # the other side may have gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Conversation], Awaitable[None]]


class FakeUpstream:
    """A server on 127.0.0.1, on a free port unless one is given.

    `hung_up` is set when a client has closed or reset a connection in the middle of a script.
    """

    def __init__(self, *scripts: Script, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.scripts = scripts
        self._port = port
        self._tls = tls
        self.requests: list[Seen] = []
        self.connections = 0
        self.hung_up = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> FakeUpstream:
        self._server = await asyncio.start_server(
            self._accepted, "127.0.0.1", self._port, ssl=self._tls
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
                self.requests.append(request)
                conversation = Conversation(request, reader, writer, self.hung_up)
                await script(conversation)
                if not conversation.keep_alive:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()
            self._tasks.discard(task)


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    method, path, _ = start.split(" ", 2)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


def data(document: object) -> bytes:
    """A document as one SSE frame."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def role() -> bytes:
    return data({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})


def chunk(text: str) -> bytes:
    return data({"choices": [{"index": 0, "delta": {"content": text}}]})


def finish(reason: str = "stop") -> bytes:
    return data({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return data({"choices": [], "usage": counts})


def sse(*frames: bytes) -> Script:
    """A stream that does everything right, frame by frame, on a connection kept alive."""

    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for frame in frames:
            await conversation.chunk(frame)
        await conversation.end()

    return script


def reply(status: int, document: object, /, **headers: str) -> Script:
    """A whole JSON answer."""

    async def script(conversation: Conversation) -> None:
        body = json.dumps(document).encode()
        length = str(len(body))
        given = {"content_type": "application/json", **headers}
        await conversation.head(status, **given, content_length=length)
        await conversation.raw(body)
        conversation.keep_alive = True

    return script


def answer(text: str) -> Script:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    return reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
