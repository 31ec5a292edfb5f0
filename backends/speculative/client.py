"""The edge's end of a session: over one way to the companion after another, and what can go wrong.

Before the session stands, whatever fails is `NoSession`, and the same request goes over HTTP
instead. After that a way that breaks is replaced: the session is resumed behind the last commit
that was read, so that no byte is lost or said twice. Only if that fails too is it an UpstreamError,
for a part of the answer may have been shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import httpx

from backends.clocks import Clock
from backends.http import HttpUpstream
from backends.speculative.session import (
    ACK_EVERY,
    Ack,
    Commit,
    Draft,
    Failure,
    MalformedMessage,
    Message,
    Open,
    Opened,
    Resume,
    Stale,
)
from backends.speculative.spare import Spare
from backends.speculative.transport import (
    Lost,
    NoSession,
    PostTransport,
    Transport,
    WebSocketTransport,
    session_url,
)
from gateway.core.errors import LocalUnavailable, TandemError, UpstreamBroken
from gateway.core.exchange import Call
from gateway.core.routing import Zone

__all__ = ["NoSession", "Session", "session_url"]

OPENED_S = 10.0
"""For rendering the prompt; a session is opened before it waits for its turn."""
STALE_S = 2.0
"""For the first word on a spare connection: one that is half dead takes a session's place in a
queue of packets that nobody reads. Then a fresh one is made."""
PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Before each try to resume: a network that changes needs seconds. Less than the companion waits
in all, and two refused connections are enough: nobody is there any more."""
REFUSALS = 2

LASTING = ("fingerprint_mismatch", "version_mismatch", "cannot_rewind")
"""Refusals that the next request would hear again."""

Dial = Callable[[], Awaitable[Transport]]


class Session:
    """An open session. Whoever opened it closes it, and that stops the work at the other end."""

    def __init__(self, upstream: str, transport: Transport, clock: Clock, dial: Dial) -> None:
        self._upstream = upstream
        self._transport = transport
        self._clock = clock
        self._dial = dial
        self._opened: Opened | None = None
        self._untried = False
        self._position = self._acked = 0
        self._ended = False
        self.resumes = 0
        """How often the way to the companion was replaced."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        upstream: str,
        zone: Zone,
        call: Call,
        clock: Clock,
        api_key: str | None,
        timeout_s: float,
        http: HttpUpstream | None = None,
        spare: Spare | None = None,
    ) -> Session:
        """Reach the companion: over the `spare` connection if one stands; with `http`, also where
        no WebSocket can be made.

        Raises NoSession, or LocalUnavailable before any connection if the request's zone does not
        reach that far (DESIGN 2.3).
        """
        if not call.zone.admits(zone):
            raise LocalUnavailable(
                f"upstream {upstream!r} lies outside the request's zone {call.zone.label!r}"
            )

        async def by_socket() -> Transport:
            return await WebSocketTransport.connect(url, api_key=api_key, timeout_s=timeout_s)

        async def by_posts() -> Transport:
            assert http is not None
            return PostTransport(http, _http_url(url), call, clock)

        if spare is not None and (ready := spare.take()) is not None:
            session = cls(upstream, ready, clock, by_socket)
            session._untried = True
            return session
        try:
            return cls(upstream, await by_socket(), clock, by_socket)
        except NoSession as refusal:
            if http is None or not refusal.upgrade:
                raise
            return cls(upstream, await by_posts(), clock, by_posts)

    @property
    def by_socket(self) -> bool:
        """Whether WebSockets can be made to there."""
        return isinstance(self._transport, WebSocketTransport)

    @property
    def epsilon(self) -> float | None:
        """By how little two widths of the target's batch may differ, in logits; None: not said."""
        return None if self._opened is None else self._opened.epsilon

    async def open(self, message: Open) -> Opened:
        """Ask for the session. Raises NoSession if the companion will not have it."""
        try:
            async with asyncio.timeout(OPENED_S):
                answer = await self._first_words(message)
        except (ValueError, OverflowError):
            raise NoSession("unpackable") from None  # JSON that msgpack cannot say: huge integers
        except TimeoutError:
            raise NoSession("open_timeout") from None
        except TandemError as error:
            raise NoSession(error.code or "broken") from None
        except Lost:
            raise NoSession("closed") from None
        if isinstance(answer, Opened):
            self._opened = answer
            return answer
        self._ended = True
        code = answer.code if isinstance(answer, Failure) else "out_of_turn"
        raise NoSession(code, lasting=code in LASTING)

    async def draft(self, message: Draft) -> None:
        """Propose tokens. A way that is gone is the reader's to mend."""
        try:
            await self._transport.send(message)
        except Lost:
            pass

    async def messages(self) -> AsyncGenerator[Commit | Stale, None]:
        """Commits until the one that finishes. Raises UpstreamError when the session breaks."""
        while not self._ended:
            message = await self._receive()
            match message:
                case Commit():
                    self._follow(message)
                    self._clock.restart()
                    yield message
                    # Only what has been taken is acknowledged: a slow reader slows the target.
                    await self._acknowledge()
                    self._clock.restart()
                case Stale():
                    yield message
                case Failure():
                    self._ended = True
                    raise UpstreamBroken(
                        f"upstream {self._upstream!r} ended the session ({message.code[:60]})"
                    )
                case _:
                    raise self._broken("sent a message out of turn")

    async def rtt(self) -> float | None:
        """Seconds there and back; None if the socket closes first."""
        return await self._transport.rtt()

    async def aclose(self) -> None:
        """Leave. The companion hears the close and frees the target at once."""
        try:
            await self._transport.aclose(ended=self._ended)
        finally:
            self._clock.stop()

    def _follow(self, commit: Commit) -> None:
        if commit.base_pos != self._position:
            raise self._broken("left a gap in its answer")
        self._position += len(commit.tokens)
        self._ended = commit.finish is not None

    async def _acknowledge(self) -> None:
        if self._position - self._acked < ACK_EVERY and not self._ended:
            return
        self._acked = self._position
        try:
            await self._transport.send(Ack(pos=self._position))
        except Lost:
            pass  # the next message will not come either

    async def _receive(self) -> Message:
        while True:
            try:
                return await self._clock.wait(self._transport.receive())
            except MalformedMessage:
                raise self._broken("does not speak the session's protocol") from None
            except Lost:
                if self._opened is None:
                    raise
            await self._clock.wait(self._resume(self._opened))

    async def _resume(self, opened: Opened) -> None:
        """Another way to the same session. Raises UpstreamBroken if there is none."""
        await self._transport.drop()
        refused = 0
        for pause in PAUSES_S:
            await asyncio.sleep(pause)
            transport = None
            try:
                transport = await self._dial()
                async with asyncio.timeout(OPENED_S):
                    again = Resume(
                        session=opened.session, token=opened.token, have_pos=self._position
                    )
                    answer = await self._begin(transport, again)
            except NoSession as refusal:
                refused += refusal.reason == "unreachable"
                answer = None
            except (Lost, TimeoutError, MalformedMessage):
                answer = None
            except BaseException:
                if transport is not None:
                    await transport.drop()
                raise
            if isinstance(answer, Opened) and answer.pos == self._position and transport:
                self._transport = transport
                self._opened = replace(answer, token=opened.token)
                self._acked = self._position
                self.resumes += 1
                return
            if transport is not None:
                await transport.drop()
            if answer is not None or refused >= REFUSALS:
                break
        raise self._broken("closed the session in the middle of its answer")

    async def _first_words(self, message: Open) -> Message:
        """Raises what `_begin` does. A spare connection may be stale: then once more on a fresh
        one, for nothing of an answer has come.
        """
        if self._untried:
            try:
                async with asyncio.timeout(STALE_S):
                    answer = await self._begin(self._transport, message)
                if isinstance(answer, Opened):
                    return answer
            except (Lost, TimeoutError):
                pass
            await self._transport.drop()
            self._transport = await self._dial()
        return await self._begin(self._transport, message)

    async def _begin(self, transport: Transport, first: Open | Resume) -> Message:
        """Raises NoSession, Lost, MalformedMessage, TandemError."""
        if isinstance(transport, PostTransport):
            await transport.begin(first)
        else:
            await transport.send(first)
        try:
            answer = await self._clock.wait(transport.receive())
        except MalformedMessage:
            raise self._broken("does not speak the session's protocol") from None
        if isinstance(transport, PostTransport) and isinstance(answer, Opened):
            transport.name(answer.session, answer.token)
        return answer

    def _broken(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"upstream {self._upstream!r} {what}")


def _http_url(url: str) -> httpx.URL:
    """The same address for plain HTTP."""
    given = httpx.URL(url)
    return given.copy_with(scheme={"ws": "http", "wss": "https"}[given.scheme])
