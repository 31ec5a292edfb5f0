"""HTTP/1.1 to an upstream: an httpx transport on asyncio and httptools, with a pool per origin.

Why not a library: backends/design.md has the measurement. What it does is what `HttpUpstream` needs
and no more: whole request bodies, no redirects, no proxies, no cookies, no decompression. Failures
are httpx's own exceptions, in the words that httpcore uses, so that this and any other transport
behind the seam read the same.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import httpx

from backends.http1_connection import Connection, Origin

FRESH = "tandem_fresh"
"""Request extension: take a new connection, because a kept one has just failed."""


class Http1Transport(httpx.AsyncBaseTransport):
    """Keeps at most `max_idle` idle connections per origin, each for `idle_s` seconds.

    The connection last used is used first, so that those not needed grow old and are closed.
    Connections in use are not capped: admission bounds what is in flight.
    """

    def __init__(self, tls: ssl.SSLContext, *, max_idle: int = 64, idle_s: float = 30.0) -> None:
        self._tls = tls
        self._max_idle = max_idle
        self._idle_s = idle_s
        self._idle: dict[Origin, deque[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._open: set[Connection] = set()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, as soon as its head is there. Closing its stream early closes the socket.

        Raises httpx.TransportError. `RemoteProtocolError("Server disconnected…")` says that the
        connection ended before one byte of an answer.
        """
        limits = request.extensions.get("timeout", {})
        given = request.stream
        # Not Request.aread: a body that is there already needs no asynchronous walk.
        body = b"".join(given) if isinstance(given, httpx.ByteStream) else await request.aread()
        answer = await self.exchange(
            origin_of(request.url),
            _head(request),
            body,
            limits.get("connect"),
            fresh=FRESH in request.extensions,
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=Body(answer),
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": answer.reason,
                "network_stream": answer.connection,
            },
        )

    async def exchange(
        self,
        origin: Origin,
        head: bytes,
        body: bytes,
        connect_s: float | None,
        *,
        fresh: bool = False,
    ) -> Http1Answer:
        """The same in bytes: `head` is a whole one, with its blank line. `close` the answer."""
        connection = None if fresh else self._kept(origin)
        if connection is None:
            connection = await self._connect(origin, connect_s)
        try:
            await connection.ask(head, body)
        except BaseException:
            connection.close()
            raise
        return Http1Answer(connection)

    @property
    def idle(self) -> int:
        """Connections kept for a next request."""
        return sum(map(len, self._idle.values()))

    async def aclose(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.close()

    def _kept(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
        return None

    def release(self, connection: Connection) -> None:
        """A connection's answer was read to its end: keep it for the next request."""
        idle = self._idle.setdefault(connection.origin, deque())
        if self._closed or len(idle) >= self._max_idle:
            connection.close()
            return
        idle.append(connection)
        if self._sweeper is None:
            self._sweep()

    def _sweep(self) -> None:
        """Close what has been idle for too long. One timer for all: each use would move its own."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_s
        for idle in self._idle.values():
            while idle and idle[0].idle_since <= oldest:
                idle.popleft().close()
        self._sweeper = None
        if any(self._idle.values()):
            self._sweeper = loop.call_later(self._idle_s / 4, self._sweep)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    async def _connect(self, origin: Origin, timeout_s: float | None) -> Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if scheme == b"https":
            tls = {"ssl": self._tls, "server_hostname": host}
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, origin), host, port, **tls
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:  # gaierror and SSLError are OSErrors too
            raise httpx.ConnectError(str(error)) from error
        self._open.add(connection)
        return connection


class Http1Answer:
    """An answer whose head is there, and its body as it arrives."""

    __slots__ = ("_closed", "connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.status = connection.status
        self.headers = connection.headers
        self._closed = False

    @property
    def reason(self) -> bytes:
        return self.connection.reason

    def whole(self) -> bytes | None:
        """What is left of the body, if all of it is here."""
        return self.connection.whole()

    def read(self) -> Awaitable[bytes]:
        """What one or more reads of the socket held; b"" at the end. Not after `close`."""
        assert not self._closed
        return self.connection.read()

    def push(self, receive: Callable[[bytes], bool]) -> Awaitable[bool]:
        """The body to `receive`, as `Connection.push` has it. Not after `close`."""
        assert not self._closed
        return self.connection.push(receive)

    async def close(self) -> None:
        """Only after the whole body can the connection be kept. Idempotent: it may serve others."""
        if not self._closed:
            self._closed = True
            self.connection.done()


class Readable(Protocol):
    """An answer as its body's reader sees it."""

    def read(self) -> Awaitable[bytes]: ...

    async def close(self) -> None: ...


class Body(httpx.AsyncByteStream):
    """An answer's body in httpx's terms."""

    def __init__(self, answer: Readable) -> None:
        self._answer: Readable | None = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._answer is not None and (part := await self._answer.read()):
            return part
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            await answer.close()


def origin_of(url: httpx.URL) -> Origin:
    """What one pool of connections serves."""
    return url.raw_scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx.Request) -> bytes:
    lines = [request.method.encode(), b" ", request.url.raw_path, b" HTTP/1.1\r\n"]
    for name, value in request.headers.raw:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
