"""Two doors to one pool: an exchange in bytes for the hot path, any httpx transport beside it.

httpx's Request, Response and Headers cost a third of what a whole proxied request does. So our own
transport is asked in bytes, with a head that was built once; whatever else stands at the seam, a
MockTransport or somebody's own, is asked in httpx's types and looks the same from here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from backends.http1 import FRESH, Http1Transport, origin_of
from backends.http1_connection import Origin

RawHeaders = list[tuple[bytes, bytes]]

# Reads have no limit here: it would be per read, and `Clock` limits what matters.
WRITE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go, and their head as far as it is the same for all."""

    method: str
    url: httpx.URL
    headers: httpx.Headers
    origin: Origin
    head: bytes


def target(method: str, url: httpx.URL, headers: httpx.Headers) -> Target:
    """`headers` without a length, which each body has its own of."""
    lines = [method.encode(), b" ", url.raw_path, b" HTTP/1.1\r\n"]
    for name, value in headers.raw:
        lines += (name, b": ", value, b"\r\n")
    return Target(
        method=method,
        url=url,
        headers=headers,
        origin=origin_of(url),
        head=b"".join(lines) + b"content-length: ",
    )


class Answer(Protocol):
    """An answer whose head is there. Header names are lower case. `close` it on every way out."""

    status: int
    headers: RawHeaders

    def whole(self) -> bytes | None:
        """What is left of the body if it is all here, and nobody need wait; else None."""

    def read(self) -> Awaitable[bytes]:
        """More of the body as it arrives, undecoded; b"" at its end. Raises TransportError."""

    def push(self, receive: Callable[[bytes], bool]) -> Awaitable[bool]:
        """The same to `receive`, perhaps from within the read of a socket, until it returns False.

        Whether the body has ended. Raises TransportError, and what `receive` raises.
        """

    async def close(self) -> None:
        """Give the connection back; if the body was not read to its end, close it."""


class Door(Protocol):
    """Asks an upstream. Raises httpx.TransportError. `fresh`: not on a connection used before."""

    def ask(self, to: Target, body: bytes, *, fresh: bool = False) -> Awaitable[Answer]: ...


def door(transport: httpx.AsyncBaseTransport, connect_s: float) -> Door:
    """The door that a transport has."""
    if isinstance(transport, Http1Transport):
        return _Bytes(transport, connect_s)
    return _Httpx(transport, connect_s)


class _Bytes:
    """Our own transport's: no object of httpx's."""

    def __init__(self, transport: Http1Transport, connect_s: float) -> None:
        self._transport = transport
        self._connect_s = connect_s

    def ask(self, to: Target, body: bytes, *, fresh: bool = False) -> Awaitable[Answer]:
        head = b"%b%d\r\n\r\n" % (to.head, len(body))
        return self._transport.exchange(to.origin, head, body, self._connect_s, fresh=fresh)


class _Httpx:
    """Any other's."""

    def __init__(self, transport: httpx.AsyncBaseTransport, connect_s: float) -> None:
        self._transport = transport
        self._limits = {"connect": connect_s, "pool": connect_s, "read": None, "write": WRITE_S}

    async def ask(self, to: Target, body: bytes, *, fresh: bool = False) -> Answer:
        headers = to.headers.copy()
        headers["content-length"] = str(len(body))
        extensions: dict[str, Any] = {"timeout": self._limits}
        if fresh:
            extensions[FRESH] = True
        request = httpx.Request(
            to.method, to.url, headers=headers, stream=httpx.ByteStream(body), extensions=extensions
        )
        return _HttpxAnswer(await self._transport.handle_async_request(request))


class _HttpxAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._parts = aiter(response.stream)

    def whole(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        while (part := await anext(self._parts, None)) is not None:
            if part:
                return part
        return b""

    async def push(self, receive: Callable[[bytes], bool]) -> bool:
        while part := await self.read():
            if not receive(part):
                return False
        return True

    async def close(self) -> None:
        if isinstance(self._parts, AsyncGenerator):
            # Left to the garbage collector, it would hold the connection until then.
            await self._parts.aclose()
        await self._stream.aclose()
