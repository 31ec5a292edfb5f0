"""The one door to HTTP upstreams: egress check, four clocks, size caps, and the error mapping.

Everything goes through an `httpx.AsyncBaseTransport` by one of its doors (door.py), never through
AsyncClient: its `send` would cost more than the rest of a proxied request (relay.md section 2), and
redirects, cookies, environment proxies and decompression, which it brings, are what an egress door
must not have.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field

from backends.door import Answer, RawHeaders, Target, door, target
from backends.http1 import Http1Transport
from backends.http2 import Http2Transport, offers_http2
from backends.http_errors import rejection, reported, scrub
from gateway.core.errors import (
    LocalUnavailable,
    TandemError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from gateway.core.exchange import Call
from gateway.core.routing import Zone
from gateway.wire.openai_errors import ErrorBody

T = TypeVar("T")

MAX_ERROR_BODY = 64 * 1024
DRAIN_S = 0.1
"""How long a finished stream may take to end, so that its connection can be used again."""


class Timeouts(BaseModel):
    """Seconds. `first_content` and `idle` count content only: no headers, role chunk or comment.

    `document` bounds an answer that comes whole, whose headers wait for its last token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect: float = Field(default=2.0, gt=0)
    first_content: float = Field(default=60.0, gt=0)
    idle: float = Field(default=30.0, gt=0)
    document: float = Field(default=300.0, gt=0)


class Clock:
    """What one attempt may still wait for: first content, idle between contents, total deadline.

    Only waiting for the upstream counts. A slow reader of ours holds the generator, not the clock:
    `restart` is called when it comes back for more. `stop` it at the attempt's end. `now` is the
    monotonic time that deadlines are of.
    """

    def __init__(
        self,
        upstream: str,
        timeouts: Timeouts,
        call: Call,
        *,
        streaming: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._now = now
        self._idle = timeouts.idle
        self._deadline = math.inf if call.deadline is None else call.deadline
        self._first = timeouts.first_content if streaming else timeouts.document
        self._until = now() + self._first
        self._begun = False
        # One timer for the attempt, which looks when it fires: a timer for each wait costs more
        # than the rest of relaying a chunk.
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._fired = False

    def restart(self) -> None:
        """Content has come, and has been taken."""
        self._until = self._now() + self._idle
        self._begun = True

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, step: Awaitable[T]) -> T:
        """Await one step of the upstream's. Raises UpstreamTimeout, having cancelled the step."""
        # Given the loop: to find it, CPython 3.11 asks the kernel for our pid.
        task = asyncio.current_task(self._loop)
        assert task is not None
        before = task.cancelling()
        self._waiting, self._fired = task, False
        if self._timer is None or self._until < self._due:
            self._set()
        try:
            return await step
        except asyncio.CancelledError:
            # Ours, unless somebody else has cancelled the task as well.
            if self._fired and task.uncancel() <= before:
                raise UpstreamTimeout(f"Upstream {self._upstream!r}: {self._why()}.") from None
            raise
        finally:
            self._waiting = None

    def _set(self) -> None:
        self.stop()
        self._due = self._until
        left = min(self._until, self._deadline) - self._now()
        self._timer = self._loop.call_later(max(left, 0.0), self._look)

    def _look(self) -> None:
        """Cancel whoever waits if the time is over; else come back when it may be."""
        self._timer = None
        if self._now() < min(self._until, self._deadline):
            self._set()
        elif self._waiting is not None:
            self._fired = True
            self._waiting.cancel()

    def _why(self) -> str:
        if self._deadline < self._until:
            return "the request's deadline has passed"
        if self._begun:
            return f"no further content within {self._idle:g} s"
        return f"no content within {self._first:g} s"


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificate bundle takes tens of milliseconds: once for all upstreams.
    return httpx.create_ssl_context(trust_env=False)


@cache
def _tls_http2() -> ssl.SSLContext:
    return offers_http2(httpx.create_ssl_context(trust_env=False))


def http2_transport() -> httpx.AsyncBaseTransport:
    """HTTP/2 where the server chooses it, else as `default_transport`."""
    return Http2Transport(_tls_http2(), Http1Transport(_tls()))


def default_transport() -> httpx.AsyncBaseTransport:
    """Our own HTTP/1.1: no retries, no proxy from the environment, verified TLS."""
    return Http1Transport(_tls())


class HttpUpstream:
    """One upstream's door. Raises the core error tree and nothing else."""

    def __init__(
        self,
        *,
        name: str,
        host: str,
        zone: Zone,
        transport: httpx.AsyncBaseTransport,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        max_body_bytes: int = 32 * 1024 * 1024,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._now = now
        self._zone = zone
        self._transport = transport
        self._timeouts = timeouts or Timeouts()
        self._door = door(transport, self._timeouts.connect)
        self._max_body_bytes = max_body_bytes
        self._secrets = (api_key,) if api_key else ()
        self._headers = httpx.Headers(
            [
                ("host", host),
                ("accept", "text/event-stream, application/json"),
                ("accept-encoding", "identity"),
                ("content-type", "application/json"),
                ("user-agent", "tandem"),
            ]
        )
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._limits_seen: tuple[RawHeaders, float] = [], 0.0

    def target(self, url: httpx.URL, method: str = "POST") -> Target:
        """An address of this upstream's, to be asked often."""
        return target(method, url, self._headers)

    def clock(self, call: Call, *, streaming: bool) -> Clock:
        return Clock(self.name, self._timeouts, call, streaming=streaming, now=self._now)

    async def post(
        self, to: Target, body: bytes, call: Call, clock: Clock, *, expect: str
    ) -> Answer:
        """A 200 of media type `expect`, its body unread. Whoever gets it must `close` it.

        Raises LocalUnavailable before any connection is opened if the request's zone does not
        reach this upstream: the second of the two checks of DESIGN 2.3.
        """
        if not call.zone.admits(self._zone):
            raise LocalUnavailable(
                f"Upstream {self.name!r} lies outside the request's zone {call.zone.label!r}."
            )
        answer = None
        try:
            answer = await self._ask(to, body, clock)
            if not self._is_good(answer, expect):
                raise self._no_answer(answer, expect, await self._beginning(answer, clock))
        except BaseException:
            await self.close(answer, clock)
            raise
        return answer

    async def close(self, answer: Answer | None, clock: Clock) -> None:
        """The end of an attempt, on every way out."""
        clock.stop()
        if answer is not None:
            await answer.close()

    async def part(self, answer: Answer, clock: Clock) -> bytes:
        """More of the body as it arrives; b"" at its end. Raises UpstreamBroken if it is cut."""
        try:
            return await clock.wait(answer.read())
        except httpx.TransportError as error:
            raise self._cut(error) from error

    async def push(self, answer: Answer, receive: Callable[[bytes], bool], clock: Clock) -> bool:
        """The body to `receive` as it arrives, until that returns False; whether it has ended.

        Raises UpstreamBroken if it is cut, and what `receive` raises.
        """
        try:
            return await clock.wait(answer.push(receive))
        except httpx.TransportError as error:
            raise self._cut(error) from error

    async def read(self, answer: Answer, clock: Clock) -> bytes:
        """The whole body. Raises UpstreamBroken (`upstream_too_large`) beyond the cap."""
        body = answer.whole()  # a short one has come with its head
        if body is not None and len(body) <= self._max_body_bytes:
            return body
        parts, size = [body or b""], len(body or b"")
        while size <= self._max_body_bytes:
            part = await self.part(answer, clock)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        raise UpstreamBroken(
            f"Upstream {self.name!r} sent more than {self._max_body_bytes} bytes.",
            code="upstream_too_large",
        )

    async def drain(self, answer: Answer, clock: Clock) -> None:
        """Read a finished stream's last bytes; a connection closed before them is lost."""
        if answer.whole() is not None:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.part(answer, clock)
        except (TimeoutError, TandemError):
            pass  # the answer is whole: how its connection ends is nobody's concern

    async def get(self, url: httpx.URL, timeout_s: float) -> tuple[int, bytes]:
        """Status and at most 64 KiB of body, for health and discovery: no request's content goes.

        Raises UpstreamError.
        """
        limit, call = Timeouts(document=timeout_s), Call(id="health")
        clock = Clock(self.name, limit, call, streaming=False, now=self._now)
        answer = None
        try:
            answer = await self._ask(self.target(url, "GET"), b"", clock)
            return answer.status, await self._beginning(answer, clock)
        finally:
            await self.close(answer, clock)

    @property
    def limits_seen(self) -> tuple[list[tuple[str, str]], float]:
        """The latest headers that may speak of rate limits, and when they came (wall clock)."""
        headers, seen = self._limits_seen
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers], seen

    async def aclose(self) -> None:
        await self._transport.aclose()

    def broken(self, what: str, *, code: str | None = None) -> UpstreamBroken:
        """The error for an answer that is not what its wire promises."""
        return UpstreamBroken(f"Upstream {self.name!r} {scrub(what, self._secrets)}.", code=code)

    def rejection(
        self, status: int, headers: httpx.Headers | None = None, body: bytes = b""
    ) -> TandemError:
        """The error for an answer other than 200."""
        return rejection(
            self.name, status, headers or httpx.Headers(), body, self._secrets, now=time.time()
        )

    def reported(self, error: ErrorBody) -> TandemError:
        """The error for one that came inside a stream or under 200."""
        return reported(self.name, error, self._secrets)

    async def _ask(self, to: Target, body: bytes, clock: Clock) -> Answer:
        try:
            return await clock.wait(self._door.ask(to, body))
        except httpx.TransportError as error:
            if not _closed_unanswered(error):
                raise self._unreachable(error) from error
        # The upstream had closed a kept-alive connection while we picked it up. Nothing of an
        # answer was received, so once more, on a fresh one (operations.md 2.4, row 5).
        try:
            return await clock.wait(self._door.ask(to, body, fresh=True))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _is_good(self, answer: Answer, expect: str) -> bool:
        """Whether it is a 200 of the media type that was expected, not compressed."""
        status, headers = answer.status, answer.headers
        if status != 200:
            if status == 429:
                self._limits_seen = headers, time.time()
            return False
        self._limits_seen = headers, time.time()
        kind, coding = _described(headers)
        return kind in (expect, "") and coding in ("", "identity")

    def _no_answer(self, answer: Answer, expect: str, body: bytes) -> TandemError:
        """The error for one that is not good; `body` is how it begins."""
        status, headers = answer.status, answer.headers
        if status == 200:
            media_type, coding = _described(headers)
            if coding not in ("", "identity"):
                # Unasked. 200 KB of it can be 200 MB (operations.md 2.4, row 15): not decoded.
                return self.broken("sent a compressed answer, which was not asked for")
            if media_type != "application/json":  # else an error under 200, most likely
                return self.broken(f"answered with {media_type[:60]!r} instead of {expect!r}")
        return self.rejection(status, httpx.Headers(headers), body)

    async def _beginning(self, answer: Answer, clock: Clock) -> bytes:
        body = bytearray()
        try:
            while len(body) < MAX_ERROR_BODY and (part := await self.part(answer, clock)):
                body += part
        except UpstreamBroken:
            pass  # cut: the status says enough
        return bytes(body[:MAX_ERROR_BODY])

    def _unreachable(self, error: httpx.TransportError) -> TandemError:
        # Only ever our own words: an exception's text may quote a header.
        at = f"Upstream {self.name!r}"
        match error:
            case httpx.ConnectTimeout() | httpx.PoolTimeout():
                return UpstreamTimeout(f"{at}: no connection within {self._timeouts.connect:g} s.")
            case httpx.TimeoutException():
                return UpstreamTimeout(f"{at} took too long to take the request.")
            case httpx.ConnectError() if _tls_failed(error):
                return UpstreamUntrusted(f"{at}: the TLS handshake failed.")
            case httpx.ConnectError():
                return UpstreamUnreachable(f"{at}: {_reason(error)}.")
            case httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
                return UpstreamUnreachable(f"{at} closed the connection before it answered.")
            case httpx.RemoteProtocolError() if _closed_unanswered(error):
                return UpstreamUnreachable(f"{at} closed the connection before it answered.")
            case httpx.RemoteProtocolError():
                return UpstreamBroken(f"{at} does not speak HTTP as it should.")
            case _:
                return UpstreamUnreachable(f"{at} cannot be reached ({type(error).__name__}).")

    def _cut(self, error: httpx.TransportError) -> TandemError:
        if isinstance(error, httpx.TimeoutException):
            return UpstreamTimeout(f"Upstream {self.name!r} stopped in the middle of its answer.")
        return self.broken("closed the connection in the middle of its answer")


def _described(headers: RawHeaders) -> tuple[str, str]:
    """The body's media type and coding, in lower case; "" if nobody says.

    A repeated header's values are one list, as HTTP has it.
    """
    kinds = codings = b""
    for name, value in headers:
        if name == b"content-type":
            kinds = kinds + b", " + value if kinds else value
        elif name == b"content-encoding":
            codings = codings + b", " + value if codings else value
    kind = kinds.partition(b";")[0].strip().decode("latin-1").lower()
    return kind, codings.strip().decode("latin-1").lower()


def _closed_unanswered(error: httpx.TransportError) -> bool:
    if isinstance(error, httpx.RemoteProtocolError):
        return str(error).startswith("Server disconnected")
    return isinstance(error, httpx.ReadError | httpx.WriteError | httpx.CloseError)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 8:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _tls_failed(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _reason(error: BaseException) -> str:
    causes = _causes(error)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its name cannot be resolved"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "connection refused"
    return "no connection"
