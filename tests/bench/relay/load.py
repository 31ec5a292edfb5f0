"""Load that costs little: keep-alive connections that send one canned request after the other."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKED_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Seen:
    """What came back. `ttft_s` is from the request's last byte to the first content's."""

    done: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """One connection. `one` sends the request and waits for the whole answer."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self._request = request
        self._seen = seen
        self._transport: Any = None
        self._answered: asyncio.Future[bool] | None = None
        self._buffer = bytearray()
        self._size: int | None = None
        self._head_end = -1
        self._sent = 0.0
        self._content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(False)

    async def one(self) -> bool:
        self._answered = asyncio.get_running_loop().create_future()
        self._buffer.clear()
        self._size, self._head_end, self._content = None, -1, False
        self._sent = time.perf_counter()
        self._transport.write(self._request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if self._head_end < 0:
            self._head_end = buffer.find(b"\r\n\r\n")
            if self._head_end < 0:
                return
            if not buffer.startswith(b"HTTP/1.1 200"):
                self._finish(False)
                return
            found = _LENGTH.search(buffer, 0, self._head_end)
            self._size = self._head_end + 4 + int(found[1]) if found else None
        if self._size is not None:
            if len(buffer) >= self._size:
                self._finish(True)
            return
        if not self._content and b" word0" in buffer:
            self._content = True
            self._seen.ttft_s.append(time.perf_counter() - self._sent)
        if buffer.endswith(_CHUNKED_END):
            self._finish(b"[DONE]" in buffer[-200:])

    def _finish(self, well: bool) -> None:
        if self._answered is None or self._answered.done():
            return
        if well:
            self._seen.done += 1
            self._seen.seconds.append(time.perf_counter() - self._sent)
        else:
            self._seen.failed += 1
        self._answered.set_result(well)

    def close(self) -> None:
        self._transport.close()


async def drive(
    host: str, port: int, request: bytes, *, connections: int, count: int, stagger_s: float = 0.0
) -> Seen:
    """`count` requests over so many connections, each begun when its last one has ended.

    `stagger_s` spreads the connections' first requests over so many seconds, as users would.
    """
    seen = Seen()
    left = iter(range(count))
    loop = asyncio.get_running_loop()

    async def connection(at: int) -> None:
        await asyncio.sleep(stagger_s * at / connections)
        client = None
        try:
            for _ in left:
                if client is None:
                    _, client = await loop.create_connection(
                        lambda: _Client(request, seen), host, port
                    )
                if not await client.one():
                    client.close()
                    client = None
        except OSError:
            seen.failed += 1
        finally:
            if client is not None:
                client.close()

    await asyncio.gather(*(connection(at) for at in range(connections)))
    return seen


def request(host: str, path: str, body: bytes, **headers: str) -> bytes:
    """One POST as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
