"""The connection of a client: uvicorn's own, with a shorter way for the proxy paths.

To ASGI it stays ASGI, so that what runs behind it does not know. What it leaves out is what only a
general server needs: an Event for each request, a check of each header of ours, an access log. And
it tells at once when the client has gone (`GONE` in the scope), so that nobody has to wait for that
in a task of its own; and a body can be written without waiting (`OUTLET`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, TypeAlias, cast

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import GONE, OUTLET

Message: TypeAlias = MutableMapping[str, Any]

_STATUS = httptools_impl.STATUS_LINE


class _Arrivals:
    """What uvicorn's protocol knows as the request's Event: set when something has happened."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class LeanCycle(RequestResponseCycle):
    """One request and its answer, whose headers are ours and need no second look."""

    def __init__(self, **given: Any) -> None:
        given["message_event"] = arrivals = _Arrivals()
        super().__init__(**given)
        self._arrivals = arrivals
        self._unread = True
        self._head = b""
        self._gone: Callable[[], None] | None = None
        given["scope"].update({GONE: self._when_gone, OUTLET: self})

    async def run_asgi(self, app: Any) -> None:
        try:
            await super().run_asgi(app)
        finally:
            # Else scope and cycle would hold each other, and wait for the garbage collector.
            cast(dict[str, Any], self.scope).update({GONE: None, OUTLET: None})
            self._gone = None

    def left(self) -> None:
        """The connection is gone. Tells whoever asked, unless the answer was whole."""
        if self.disconnected and self._gone is not None:
            gone, self._gone = self._gone, None
            gone()

    def _when_gone(self, call: Callable[[], None]) -> None:
        self._gone = call
        self.left()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while True:
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            if self.body or (self._unread and not self.more_body):
                break
            self.flow.resume_reading()
            await self._arrivals.wait()
        self._unread = self.more_body
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        # Waiting here is the back-pressure: who does not read is not read for either.
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self.write(message.get("body", b""), more=message.get("more_body", False))
        else:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._head_of(message)

    def _head_of(self, message: Message) -> bytes:
        headers = message["headers"]
        lines = [_STATUS[message["status"]]]
        self.chunked_encoding = True
        for name, value in headers:
            if name == b"content-length":
                self.chunked_encoding = False
            lines.append(b"%b: %b\r\n" % (name, value))
        count = len(lines)
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
            count += 1
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
            count += 1
        head = b"".join(lines)
        if head.count(b"\n") != count or head.count(b"\r") != count:
            raise RuntimeError("a response header holds a line break")
        return head + b"\r\n"

    # As the outlet in the scope.

    @property
    def full(self) -> bool:
        return self.flow.write_paused and not self.disconnected

    async def room(self) -> None:
        await self.flow.drain()

    def write(self, body: bytes, *, more: bool = True) -> None:
        """More of a body, at once and without waiting for room."""
        head, self._head = self._head, b""
        if not (self.disconnected or self.transport.is_closing()):
            if not self.chunked_encoding:
                self.transport.write(head + body)
            elif body:
                end = b"\r\n" if more else b"\r\n0\r\n\r\n"
                self.transport.write(b"%b%x\r\n%b%b" % (head, len(body), body, end))
            elif not more:
                self.transport.write(head + b"0\r\n\r\n")
            elif head:
                self.transport.write(head)
        if not more:
            self.response_complete = True
            self._arrivals.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


class HotLane(HttpToolsProtocol):
    """uvicorn's protocol with a LeanCycle for requests to `hot` paths; `lane` makes it."""

    hot: frozenset[str] = frozenset()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if isinstance(self.cycle, LeanCycle):
            self.cycle.left()

    def on_headers_complete(self) -> None:
        path = self.url.partition(b"?")[0].decode("latin-1")
        if path not in self.hot or self.parser.get_method() != b"POST":
            super().on_headers_complete()
            return
        if self.parser.should_upgrade() or self.root_path or self.limit_concurrency is not None:
            super().on_headers_complete()
            return
        version = self.parser.get_http_version()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope.update(method="POST", http_version=version, path=path, raw_path=path.encode())
        scope["query_string"] = self.url.partition(b"?")[2]
        before = self.cycle
        self.cycle = LeanCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # pipelined: its turn comes
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))


def lane(hot: frozenset[str]) -> type[HotLane]:
    """A protocol class for uvicorn's `http=`."""
    return type("Lane", (HotLane,), {"hot": hot})
