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
from collections.abc import AsyncIterator
from typing import Any, cast

import httptools
import httpx

HIGH_WATER = 128 * 1024
"""Bytes of a body that wait for their reader before the socket is no longer read. One read of the
loop may add 256 KiB to that: with TLS the most that one stream holds."""

MAX_HEAD = 64 * 1024
"""Bytes that may come without any of them being body: heads, trailers, chunk extensions."""

NO_CONTENT = frozenset({204, 304})
FRESH = "tandem_fresh"
"""Request extension: take a new connection, because a kept one has just failed."""

Origin = tuple[bytes, str, int]


class Http1Transport(httpx.AsyncBaseTransport):
    """Keeps at most `max_idle` idle connections per origin, each for `idle_s` seconds.

    The connection last used is used first, so that those not needed grow old and are closed.
    Connections in use are not capped: admission bounds what is in flight.
    """

    def __init__(self, tls: ssl.SSLContext, *, max_idle: int = 64, idle_s: float = 30.0) -> None:
        self._tls = tls
        self._max_idle = max_idle
        self._idle_s = idle_s
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._open: set[_Connection] = set()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, as soon as its head is there. Closing its stream early closes the socket.

        Raises httpx.TransportError. `RemoteProtocolError("Server disconnected…")` says that the
        connection ended before one byte of an answer.
        """
        url = request.url
        origin = (url.raw_scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        limits = request.extensions.get("timeout", {})
        given = request.stream
        # Not Request.aread: a body that is there already needs no asynchronous walk.
        body = b"".join(given) if isinstance(given, httpx.ByteStream) else await request.aread()
        connection = None if FRESH in request.extensions else self._kept(origin)
        if connection is None:
            connection = await self._connect(origin, limits.get("connect"))
        try:
            status, reason, headers = await connection.ask(_head(request), body)
        except BaseException:
            connection.close()
            raise
        return httpx.Response(
            status,
            headers=headers,
            stream=_Body(connection),
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": reason,
                "network_stream": connection,
            },
        )

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

    def _kept(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
        return None

    def release(self, connection: _Connection) -> None:
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

    def lost(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    async def _connect(self, origin: Origin, timeout_s: float | None) -> _Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if scheme == b"https":
            tls = {"ssl": self._tls, "server_hostname": host}
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, origin), host, port, **tls
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:  # gaierror and SSLError are OSErrors too
            raise httpx.ConnectError(str(error)) from error
        self._open.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One socket, one answer at a time. The parser calls the `on_*` methods."""

    def __init__(self, pool: Http1Transport, origin: Origin) -> None:
        self.origin = origin
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[None] | None = None
        self._more: asyncio.Future[None] | None = None
        self._gone = False
        self._asked = False
        self.idle_since = 0.0
        self._error: httpx.TransportError | None = None
        # This answer's.
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._status = 0
        self._silent = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._framed = False
        self._complete = False
        self._keep = False

    @property
    def reusable(self) -> bool:
        return not (self._asked or self._gone or self._error)

    @property
    def complete(self) -> bool:
        """Whether the answer has come whole and has been read."""
        return self._complete and not self._parts

    def get_extra_info(self, name: str) -> Any:
        """As httpcore's network streams have it; `socket` is the socket."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    async def ask(self, head: bytes, body: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        """Send a request, wait for the head of its answer: status, reason, headers."""
        transport = self._transport
        if transport is None or self._gone:
            raise _unanswered()
        self._asked = True
        self._headers, self._status, self._silent = [], 0, 0
        self._framed = self._complete = self._keep = False
        self._head = self._loop.create_future()
        # Not waited for until it has gone out: who does not read a request is a matter of the clock
        # that runs while we wait for the answer, and an early answer (413) is taken at once.
        if len(body) < 16384:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        await self._head
        self._head = None
        return self._status, self._reason, self._headers

    async def read(self) -> bytes:
        """What has come of the body since the last read; b"" at its end.

        Raises httpx.TransportError when the body was cut, after what came before has been read.
        """
        while not self._parts:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            self._more = self._loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def done(self) -> None:
        """The reader has had enough. Only after a whole answer can the connection be kept."""
        if self.complete and self._keep and not self._gone and self._error is None:
            self._asked = False
            self.idle_since = self._loop.time()
            self._pool.release(self)
        else:
            self.close()

    def close(self) -> None:
        if self._transport is not None and not self._gone:
            # Not close(): what is still to be sent to somebody we no longer listen to can be lost.
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not its subclasses

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self._fail(httpx.RemoteProtocolError("Server sent more than its answer."))
            return
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keep = False
            if not self._complete:
                self._fail(httpx.RemoteProtocolError("Server does not speak HTTP/1.1."))
                return
        if self._silent > MAX_HEAD:
            self._fail(httpx.RemoteProtocolError("Server sent an endless head."))
            return
        if self._size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._more is not None and (self._parts or self._complete) and not self._more.done():
            self._more.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._pool.lost(self)
        if self._head is not None:
            self._fail(_unanswered() if not self._silent else httpx.ReadError("cut in the head"))
        elif self._asked and not self._complete:
            if error is None and not self._framed:
                self._complete = True  # a body without a length ends with its connection
                self._wake()
            else:
                self._fail(httpx.RemoteProtocolError("peer closed connection in the body"))

    def _fail(self, error: httpx.TransportError) -> None:
        self._error = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
        self._wake()
        self.close()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep = False  # a second answer, to nothing: it must not meet the next request

    def on_status(self, status: bytes) -> None:
        if not self._complete:
            self._reason = status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer, or a second answer's
        self._headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers, self._framed = (
                [],
                False,
            )  # 100 Continue, 103 Early Hints: the answer is still to come
            return
        self._status = status
        self._framed = self._framed or status in NO_CONTENT
        if self._head is not None and not self._head.done():
            self._head.set_result(None)

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._silent = 0
        self._size += len(body)
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._status and not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # it forgets with the next byte


class _Body(httpx.AsyncByteStream):
    """A response's body as it arrives, one part for what one or more reads of the socket held."""

    def __init__(self, connection: _Connection) -> None:
        self._connection: _Connection | None = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is not None and (part := await self._connection.read()):
            return part
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.done()


def _unanswered() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")


def _head(request: httpx.Request) -> bytes:
    lines = [request.method.encode(), b" ", request.url.raw_path, b" HTTP/1.1\r\n"]
    for name, value in request.headers.raw:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
