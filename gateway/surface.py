"""What a client may do to a connection: how long, how many, how much (operations.md 0.5).

uvicorn leaves all of this open. The watch is one look at every connection a few times a second, so
that a request on the hot path pays for a time stamp and not for timers of its own.
"""

from __future__ import annotations

import re
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.core.errors import (
    HeadersTooLarge,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    TandemError,
)
from gateway.headers import MAX_HEADER_BYTES, MAX_HEADERS, error_headers, new_id
from gateway.hot_lane import HotLane, LeanCycle
from gateway.limits.keys import is_loopback
from gateway.wire.openai_shapes import error_body

HEAD_ROOM = 16 * 1024
"""Bytes beside the headers that one read may bring with them: a request line, a short body."""
LINGER_S = 1.0
"""How long a refused client may go on sending, so that it hears why."""
FILES_KEPT = 256
"""File descriptors for everything but clients and the upstream connection that each may need."""

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n|\Z)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds and counts. `per_address` does not bind loopback, nor a proxy's many clients there.

    `header_timeout` is for a request's whole head; `body_timeout` and `write_timeout` pass without
    one byte of progress.
    """

    header_timeout: float = 10.0
    body_timeout: float = 10.0
    write_timeout: float = 30.0
    keep_alive: float = 75.0
    connections: int = 4096
    per_address: int = 256


def most_connections(wished: int) -> int:
    """No more clients than there are file descriptors for, so that `accept` never fails for want
    of one; each may need another for its upstream. Raises the soft limit as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wished
    if hard == resource.RLIM_INFINITY or hard > soft:
        wanted = 2 * wished + FILES_KEPT
        wanted = max(soft, wanted)
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wished, max(16, (soft - FILES_KEPT) // 2))


class GuardedLane(HotLane):
    """A connection that is watched; `guarded` makes the class for one listener."""

    limits = Limits()
    by_address: Counter[str]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self._began = self.loop.time()
        self._reading = False
        self._head = 0
        self._unwritten = 0
        self._stuck_since: float | None = None
        self._flaw: TandemError | None = None
        self._refused_at: float | None = None
        self._address = self.client[0] if self.client else ""
        self.by_address[self._address] += 1
        self._counted = True
        if not self._has_place():
            error = Overloaded("Too many connections.", code="too_many_connections")
            self._refuse(error, 503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._forget()  # sessions are counted where they are served
        super().handle_websocket_upgrade()
        opening = getattr(self.transport.get_protocol(), "conn", None)
        if opening is None or opening.handshake_exc is None or self.transport.is_closing():
            return
        # A POST, a body, a line too long: no handshake to refuse, and uvicorn would wait for more
        # of it, for ever and without anybody's look.
        self._refuse(InvalidRequest("This is no WebSocket handshake.", code="invalid_http"))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._refused_at is not None or self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self._head == 0 and b"h2c" in data:
            data = _declined(data)
        if self._head >= 0:
            # Before the parser sees it: it would keep megabytes of headers.
            self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEADER_BYTES + HEAD_ROOM and self._refused_at is None:
            self._refuse(HeadersTooLarge("The headers are too large."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._began = self._since
        self._reading = True

    def on_headers_complete(self) -> None:
        self._head = -1
        headers = self.headers
        hosts = [name for name, _ in headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            raise self._flawed(InvalidRequest("A request has one Host header.", code="bad_host"))
        if len(headers) > MAX_HEADERS:
            raise self._flawed(HeadersTooLarge("There are too many headers."))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = False
        self._head = 0

    def on_response_complete(self) -> None:
        """As uvicorn does it, without a timer for each idle connection: `look` ends those."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for anything that it cannot parse."""
        self._refuse(self._flaw or InvalidRequest(msg, code="invalid_http"))

    def look(self, now: float) -> None:
        """End what has lasted too long. Called a few times a second."""
        limits, passed = self.limits, now - self._since
        unwritten = self.transport.get_write_buffer_size()
        if unwritten and unwritten == self._unwritten:
            self._stuck_since = self._stuck_since or now
            if now - self._stuck_since > limits.write_timeout:
                self.transport.abort()
            return
        self._unwritten, self._stuck_since = unwritten, None
        if self.transport.is_closing():
            return
        if self._refused_at is not None:
            if now - self._refused_at > LINGER_S:
                self.transport.abort()
            return
        if self._reading and self._head >= 0:
            if now - self._began > limits.header_timeout:
                self._refuse(RequestTimeout("The headers did not come in time."))
        elif self._reading:
            if passed > limits.body_timeout and not self.flow.read_paused:
                self._refuse(RequestTimeout("The body stopped coming."))
        elif self.cycle is None:
            if passed > limits.header_timeout:
                self.transport.close()
        elif self.cycle.response_complete and passed > limits.keep_alive:
            self.transport.close()

    @property
    def idle(self) -> bool:
        """Between two requests, or before the first."""
        return not self._reading and (self.cycle is None or self.cycle.response_complete)

    def _has_place(self) -> bool:
        """Whether this new connection may stay; the oldest idle one goes for it if it must."""
        limits, address = self.limits, self._address
        crowded = self.by_address[address] > limits.per_address and not is_loopback(address)
        if len(self.connections) <= limits.connections and not crowded:
            return True
        idle = [
            other
            for other in self.connections
            if isinstance(other, GuardedLane)
            and other is not self
            and other.idle
            and not other.transport.is_closing()
            and (not crowded or other._address == address)
        ]
        if not idle:
            return False
        min(idle, key=lambda other: other._since).transport.close()
        return True

    def _flawed(self, flaw: TandemError) -> httptools.HttpParserError:
        self._flaw = flaw
        return httptools.HttpParserError(flaw.message)

    def _refuse(self, error: TandemError, status: int | None = None) -> None:
        """Say what is wrong, unless an answer has begun, and close."""
        answered = self.cycle is not None and self.cycle.response_started
        if answered and self._head >= 0:  # the one before, unless that is still going on
            answered = not self.cycle.response_complete
        if not answered:
            body = error_body(error)
            fields = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "x-request-id": new_id(),
                "connection": "close",
                **error_headers(error),
            }
            lines = [STATUS_LINE[status or error.status]]
            lines += [f"{name}: {value}\r\n".encode() for name, value in fields.items()]
            self.transport.write(b"".join([*lines, b"\r\n", body]))
        # To close while it still sends would reset the connection, and what we said with it.
        self._refused_at = self.loop.time()
        self.transport.write_eof()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # Nobody will hear what is still being said on this connection.
            cycle.disconnected = True
            cycle.message_event.set()
            if isinstance(cycle, LeanCycle):
                cycle.left()

    def _forget(self) -> None:
        if self._counted:
            self._counted = False
            self.by_address[self._address] -= 1
            if not self.by_address[self._address]:
                del self.by_address[self._address]


def _declined(data: bytes) -> bytes:
    """A request without its offer of HTTP/2 in the clear, which a server may pass over (RFC 9110,
    7.8). Java's HttpClient offers it with each first request, and the parser would lose its body.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    return _OFFER.sub(b"", head, count=1) + blank + rest


def guarded(hot: frozenset[str], limits: Limits) -> type[GuardedLane]:
    """A protocol class for uvicorn's `http=`, with counts of its own."""
    return type("Lane", (GuardedLane,), {"hot": hot, "limits": limits, "by_address": Counter()})
