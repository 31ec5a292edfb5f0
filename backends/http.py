"""The one door to HTTP upstreams: egress check, four clocks, size caps, and the error mapping.

Everything goes through an `httpx.AsyncBaseTransport` by one of its doors (door.py), never through
AsyncClient: its `send` would cost more than the rest of a proxied request (relay.md section 2), and
redirects, cookies, environment proxies and decompression, which it brings, are what an egress door
must not have.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import cache

import httpx

from backends.clocks import Clock, Timeouts
from backends.door import Answer, RawHeaders, Target, door, target
from backends.http1 import Http1Transport
from backends.http2 import Http2Transport, offers_http2
from backends.http_errors import rejection, reported, scrub
from backends.unreachable import closed_unanswered, unreachable
from gateway.core.errors import (
    LocalUnavailable,
    TandemError,
    UpstreamBroken,
    UpstreamTimeout,
)
from gateway.core.exchange import Call
from gateway.core.routing import Zone
from gateway.wire.openai_errors import ErrorBody

MAX_ERROR_BODY = 64 * 1024
DRAIN_S = 0.1
"""How long a finished stream may take to end, so that its connection can be used again."""


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
            if not closed_unanswered(error):
                raise self._no_way(error) from error
        # The upstream had closed a kept-alive connection while we picked it up. Nothing of an
        # answer was received, so once more, on a fresh one (operations.md 2.4, row 5).
        try:
            return await clock.wait(self._door.ask(to, body, fresh=True))
        except httpx.TransportError as error:
            raise self._no_way(error) from error

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

    def _no_way(self, error: httpx.TransportError) -> TandemError:
        return unreachable(self.name, error, connect_s=self._timeouts.connect)

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
