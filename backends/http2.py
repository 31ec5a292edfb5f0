"""HTTP/2 to an upstream that has it: an httpx transport on asyncio and h2.

Why not a library: none tells the server of a stream that is closed or cancelled
(backends/design.md). Failures are httpx's own exceptions in the words that `Http1Transport` uses.
A server whose TLS handshake does not choose HTTP/2 is asked over HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import ssl

import httpx

from backends.http1 import FRESH, Body, Http1Transport, origin_of
from backends.http1_connection import Origin
from backends.http2_connection import Connection, Head, Http1Required, Stream

ENOUGH = 4
"""Connections to one origin beyond which "a fresh one" is the youngest there is: a server that
refuses streams because it is overloaded is not helped by more of them."""

HOP_BY_HOP = frozenset({b"host", b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""Of HTTP/1.1; `host` is `:authority` here."""


def offers_http2(tls: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, offering HTTP/2 before HTTP/1.1."""
    tls.set_alpn_protocols(["h2", "http/1.1"])
    return tls


class Http2Transport(httpx.AsyncBaseTransport):
    """One connection per origin until it has as many streams as the server allows; then another.

    The oldest with room is used first, so that those not needed are closed after `idle_s` seconds.
    `tls` must offer HTTP/2; `http1` serves the origins that do not choose it, and is closed with
    this. Such an origin is not tried again as long as this transport lives.
    """

    def __init__(self, tls: ssl.SSLContext, http1: Http1Transport, *, idle_s: float = 30.0) -> None:
        self._tls = tls
        self._http1 = http1
        self._idle_s = idle_s
        self._open: dict[Origin, list[Connection]] = {}
        self._opening: dict[Origin, asyncio.Task[Connection | None]] = {}
        self._http1_only: set[Origin] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, as soon as its head is there. Closing its stream early resets it at once.

        Raises httpx.TransportError. `RemoteProtocolError("Server disconnected…")` says that the
        server began no answer, or said itself that it never looked at the request.
        """
        origin = origin_of(request.url)
        limits = request.extensions.get("timeout", {})
        connection = await self._connection(
            origin, limits.get("connect"), fresh=FRESH in request.extensions
        )
        if connection is None:
            return await self._http1.handle_async_request(request)
        given = request.stream
        body = b"".join(given) if isinstance(given, httpx.ByteStream) else await request.aread()
        stream = connection.ask(_head(request), body, limits.get("write") or 30.0)
        try:
            await stream.answered
        except BaseException as error:
            if isinstance(error, Http1Required):
                self._http1_only.add(origin)
            await stream.close()
            raise
        return _response(stream)

    @property
    def connections(self) -> int:
        """Open ones, to all origins."""
        return sum(map(len, self._open.values()))

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connections in self._open.values():
            for connection in list(connections):
                connection.close()
        await self._http1.aclose()

    async def _connection(
        self, origin: Origin, connect_s: float | None, *, fresh: bool
    ) -> Connection | None:
        """One with room for a request, which must be sent before anything is awaited.

        None: the origin does not speak HTTP/2.
        """
        if origin[0] != b"https":
            return None
        opened = False
        while origin not in self._http1_only:
            known = self._open.get(origin, [])
            if opened or not fresh or len(known) >= ENOUGH:
                for connection in reversed(known) if fresh else known:
                    if connection.has_room:
                        return connection
            made = await self._made(origin, connect_s)
            if made is not None and not made.has_room and not made.busy:
                raise httpx.ConnectError("the server takes no streams")
            opened = True
        return None

    async def _made(self, origin: Origin, connect_s: float | None) -> Connection | None:
        """A new connection, shared by all who want one while it is being made."""
        task = self._opening.get(origin)
        if task is None:
            task = asyncio.create_task(self._connect(origin, connect_s))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
            self._opening[origin] = task
        # Not awaited itself: one who is cancelled must not take it from the others.
        await asyncio.wait({task})
        if task.cancelled():
            raise httpx.ConnectError("the transport was closed")
        return task.result()

    async def _connect(self, origin: Origin, timeout_s: float | None) -> Connection | None:
        _, host, port = origin
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, origin),
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=host,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:  # gaierror and SSLError are OSErrors too
            raise httpx.ConnectError(str(error)) from error
        finally:
            del self._opening[origin]
        if not connection.speaks:
            connection.close()
            self._http1_only.add(origin)
            return None
        self._open.setdefault(origin, []).append(connection)
        if self._sweeper is None:
            self._sweep()
        return connection

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_s
        for connections in self._open.values():
            for connection in list(connections):
                if not connection.busy and connection.idle_since <= oldest:
                    connection.close()
        self._sweeper = None
        if any(self._open.values()):
            self._sweeper = loop.call_later(self._idle_s / 4, self._sweep)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        connections = self._open.get(connection.origin)
        if connections is not None and connection in connections:
            connections.remove(connection)


def _head(request: httpx.Request) -> Head:
    url = request.url
    return [
        (b":method", request.method.encode()),
        (b":scheme", url.raw_scheme),
        (b":authority", request.headers.get("host", "").encode() or url.netloc),
        (b":path", url.raw_path),
        *(
            (name, value)
            for raw, value in request.headers.raw
            if (name := raw.lower()) not in HOP_BY_HOP
        ),
    ]


def _response(stream: Stream) -> httpx.Response:
    return httpx.Response(
        stream.status,
        headers=stream.headers,
        stream=Body(stream),
        extensions={"http_version": b"HTTP/2"},
    )
