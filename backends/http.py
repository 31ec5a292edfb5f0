"""The one door to HTTP upstreams: egress check, four clocks, size caps, and the error mapping.

Everything goes through an `httpx.AsyncBaseTransport`, called directly: AsyncClient.send would cost
more than the rest of a proxied request (relay.md section 2), and redirects, cookies, environment
proxies and decompression, which it brings, are what an egress door must not have.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from functools import cache
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field

from backends.http1 import FRESH, Http1Transport
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
from gateway.wire.openai import ErrorBody

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
    `restart` is called when it comes back for more. `stop` it at the attempt's end.
    """

    def __init__(self, upstream: str, timeouts: Timeouts, call: Call, *, streaming: bool) -> None:
        self._upstream = upstream
        self._idle = timeouts.idle
        self._deadline = math.inf if call.deadline is None else call.deadline
        first = timeouts.first_content if streaming else timeouts.document
        self._until = time.monotonic() + first
        self._waiting_for = f"no content within {first:g} s"
        # One timer for the attempt, which looks when it fires: a timer for each wait costs more
        # than the rest of relaying a chunk.
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._fired = False

    def restart(self) -> None:
        """Content has come, and has been taken."""
        self._until = time.monotonic() + self._idle
        self._waiting_for = ""

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
        left = min(self._until, self._deadline) - time.monotonic()
        self._timer = self._loop.call_later(max(left, 0.0), self._look)

    def _look(self) -> None:
        """Cancel whoever waits if the time is over; else come back when it may be."""
        self._timer = None
        if time.monotonic() < min(self._until, self._deadline):
            self._set()
        elif self._waiting is not None:
            self._fired = True
            self._waiting.cancel()

    def _why(self) -> str:
        if self._deadline < self._until:
            return "the request's deadline has passed"
        return self._waiting_for or f"no further content within {self._idle:g} s"


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificate bundle takes tens of milliseconds: once for all upstreams.
    return httpx.create_ssl_context(trust_env=False)


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
    ) -> None:
        self.name = name
        self._zone = zone
        self._transport = transport
        self._timeouts = timeouts or Timeouts()
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
        self._limits_seen = httpx.Headers(), 0.0
        connect = self._timeouts.connect
        # Reads have no limit here: it would be per read, and `Clock` limits what matters.
        self._limits = {"connect": connect, "pool": connect, "read": None, "write": 30.0}

    def clock(self, call: Call, *, streaming: bool) -> Clock:
        return Clock(self.name, self._timeouts, call, streaming=streaming)

    async def post(
        self, url: httpx.URL, body: bytes, call: Call, clock: Clock, *, expect: str
    ) -> httpx.Response:
        """A 200 of media type `expect`, its body unread. Whoever gets it must `close` it.

        Raises LocalUnavailable before any connection is opened if the request's zone does not
        reach this upstream: the second of the two checks of DESIGN 2.3.
        """
        if not call.zone.admits(self._zone):
            raise LocalUnavailable(
                f"Upstream {self.name!r} lies outside the request's zone {call.zone.label!r}."
            )
        response = None
        try:
            response = await self._open(self._request("POST", url, body), clock)
            await self._accept(response, clock, expect)
        except BaseException:
            await self.close(response, clock)
            raise
        return response

    async def close(self, response: httpx.Response | None, clock: Clock) -> None:
        """The end of an attempt, on every way out."""
        clock.stop()
        if response is not None:
            # Not Response.aclose, which does this and costs more than the rest of closing.
            await _stream(response).aclose()

    async def parts(self, response: httpx.Response, clock: Clock) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, undecoded. Raises UpstreamBroken if it is cut."""
        reading = aiter(_stream(response))
        step = reading.__anext__
        try:
            while True:
                yield await clock.wait(step())
        except StopAsyncIteration:
            pass
        except httpx.TransportError as error:
            raise self._cut(error) from error
        finally:
            # Left to the garbage collector, it would hold the connection until then.
            if isinstance(reading, AsyncGenerator):
                await reading.aclose()

    async def read(self, response: httpx.Response, clock: Clock) -> bytes:
        """The whole body. Raises UpstreamBroken (`upstream_too_large`) beyond the cap."""
        try:
            return await clock.wait(self._whole(response))
        except httpx.TransportError as error:
            raise self._cut(error) from error

    async def _whole(self, response: httpx.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in _stream(response):
            parts.append(part)
            size += len(part)
            if size > self._max_body_bytes:
                raise UpstreamBroken(
                    f"Upstream {self.name!r} sent more than {self._max_body_bytes} bytes.",
                    code="upstream_too_large",
                )
        return b"".join(parts)

    async def drain(self, parts: AsyncIterator[bytes]) -> None:
        """Read a finished stream's last bytes; a connection closed before them is lost."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await anext(parts, None)
        except (TimeoutError, TandemError):
            pass  # the answer is whole: how its connection ends is nobody's concern

    async def get(self, url: httpx.URL, timeout_s: float) -> tuple[int, bytes]:
        """Status and at most 64 KiB of body, for health and discovery: no request's content goes.

        Raises UpstreamError.
        """
        clock = Clock(self.name, Timeouts(document=timeout_s), Call(id="health"), streaming=False)
        response = None
        try:
            response = await self._open(self._request("GET", url), clock)
            return response.status_code, await self._beginning(response, clock)
        finally:
            await self.close(response, clock)

    @property
    def limits_seen(self) -> tuple[list[tuple[str, str]], float]:
        """The latest headers that may speak of rate limits, and when they came (wall clock)."""
        headers, seen = self._limits_seen
        return headers.multi_items(), seen

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

    def _request(
        self, method: str, url: httpx.URL, body: bytes = b"", *, fresh: bool = False
    ) -> httpx.Request:
        headers = self._headers.copy()
        headers["content-length"] = str(len(body))
        extensions: dict[str, Any] = {"timeout": self._limits}
        if fresh:
            extensions[FRESH] = True
        # Given as a stream, the body is not looked at by httpx, which would double the cost.
        return httpx.Request(
            method, url, headers=headers, stream=httpx.ByteStream(body), extensions=extensions
        )

    async def _open(self, request: httpx.Request, clock: Clock) -> httpx.Response:
        try:
            return await clock.wait(self._transport.handle_async_request(request))
        except httpx.TransportError as error:
            if not _closed_unanswered(error):
                raise self._unreachable(error) from error
        # The upstream had closed a kept-alive connection while we picked it up. Nothing of an
        # answer was received, so once more, on a fresh one (operations.md 2.4, row 5).
        again = self._request(request.method, request.url, await request.aread(), fresh=True)
        try:
            return await clock.wait(self._transport.handle_async_request(again))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    async def _accept(self, response: httpx.Response, clock: Clock, expect: str) -> None:
        status, headers = response.status_code, response.headers
        if status in (httpx.codes.OK, httpx.codes.TOO_MANY_REQUESTS):
            self._limits_seen = headers, time.time()
        if status != httpx.codes.OK:
            raise self.rejection(status, headers, await self._beginning(response, clock))
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            # Unasked. 200 KB of it can be 200 MB (operations.md 2.4, row 15): not decoded at all.
            raise self.broken("sent a compressed answer, which was not asked for")
        media_type = headers.get("content-type", expect).partition(";")[0].strip().lower()
        if media_type == expect:
            return
        if media_type == "application/json":  # an error under 200, most likely
            raise self.rejection(status, headers, await self._beginning(response, clock))
        raise self.broken(f"answered with {media_type[:60]!r} instead of {expect!r}")

    async def _beginning(self, response: httpx.Response, clock: Clock) -> bytes:
        body = bytearray()
        try:
            async with aclosing(self.parts(response, clock)) as parts:
                async for part in parts:
                    body += part
                    if len(body) >= MAX_ERROR_BODY:
                        break
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


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


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
