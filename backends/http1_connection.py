"""One HTTP/1.1 connection to an upstream: a request out, an answer in, and whether it can go on.

Bytes go through httptools' parser. What is read waits here for its reader, at most so much of it;
what is cut, ambiguous or endless is one of httpx's transport errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools
import httpx

HIGH_WATER = 128 * 1024
"""Bytes of a body that wait for their reader before the socket is no longer read. One read of the
loop may add 256 KiB to that: with TLS the most that one stream holds."""

MAX_HEAD = 64 * 1024
"""Bytes that may come without any of them being body: heads, trailers, chunk extensions."""

NO_CONTENT = frozenset({204, 304})


Origin = tuple[bytes, str, int]
"""Scheme, host, port."""


class Pool(Protocol):
    """Where a connection goes when its answer is read, and what hears of its end."""

    def release(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One socket, one answer at a time. The parser calls the `on_*` methods."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.origin = origin
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[None] | None = None
        self._more: asyncio.Future[bool] | None = None
        self._receive: Callable[[bytes], bool] | None = None
        self._gone = False
        self._asked = False
        self.idle_since = 0.0
        self._error: httpx.TransportError | None = None
        # This answer's.
        self.headers: list[tuple[bytes, bytes]] = []
        self.reason = b""
        self.status = 0
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

    def ask(self, head: bytes, body: bytes) -> asyncio.Future[None]:
        """Send a request. Done with the head of its answer: status, reason and headers are its."""
        transport = self._transport
        if transport is None or self._gone:
            raise _unanswered()
        self._asked = True
        self.headers, self.status, self._silent = [], 0, 0
        self._framed = self._complete = self._keep = False
        self._head = answered = self._loop.create_future()
        # Not waited for until it has gone out: who does not read a request is a matter of the clock
        # that runs while we wait for the answer, and an early answer (413) is taken at once.
        if len(body) < 16384:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return answered

    def whole(self) -> bytes | None:
        """The rest of the body if all of it is here; then it counts as read."""
        return self._taken() if self._complete else None

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
        return self._taken()

    async def push(self, receive: Callable[[bytes], bool]) -> bool:
        """Give the body to `receive` as it arrives, from within the read of the socket.

        Returns True at the body's end, and False once `receive` has: what then comes waits for the
        next reader. Raises httpx.TransportError when the body was cut, and what `receive` raises.
        """
        while True:
            if self._parts and not receive(self._taken()):
                return False
            if self._complete:
                return True
            if self._error is not None:
                raise self._error
            self._receive = receive
            self._more = self._loop.create_future()
            try:
                if not await self._more:
                    return False
            finally:
                self._more = self._receive = None

    def _hand_over(self) -> None:
        """What has come, to `receive`. Who waits in `push` wakes only if that has had enough."""
        assert self._receive is not None and self._more is not None
        parts = self._parts
        if len(parts) == 1 and not self._paused:  # nearly always
            self._size, part = 0, parts.pop()
        else:
            part = self._taken()
        try:
            goes_on = self._receive(part)
        except Exception as error:  # it is for who waits: the loop would only log it
            self._more.set_exception(error)
            return
        if not goes_on:
            self._more.set_result(False)

    def _taken(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
        more = self._more
        if more is not None and self._receive is not None and self._parts and not more.done():
            self._hand_over()
        if self._size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if more is not None and (self._parts or self._complete) and not more.done():
            more.set_result(True)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._pool.lost(self)
        if self._head is not None:
            self._fail(
                _unanswered()
                if not self._silent
                else httpx.RemoteProtocolError("peer closed connection in the head")
            )
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
            self._more.set_result(True)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep = False  # a second answer, to nothing: it must not meet the next request

    def on_status(self, status: bytes) -> None:
        if not self._complete:
            self.reason = status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer, or a second answer's
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length" or name == b"transfer-encoding":
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            # 100 Continue, 103 Early Hints: the answer is still to come.
            self.headers, self._framed = [], False
            return
        self.status = status
        self._framed = self._framed or status in NO_CONTENT
        answered, self._head = self._head, None
        if answered is not None and not answered.done():
            answered.set_result(None)

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._silent = 0
        self._size += len(body)
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.status and not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # it forgets with the next byte


def _unanswered() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")
