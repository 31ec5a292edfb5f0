"""One answer over a companion session: commits become events, drafting goes on while it pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from backends.engine.tools import FAMILIES
from backends.engine.tools.parser import CallParser, Delta
from backends.speculative.client import Session
from backends.speculative.controller import PROBE_TOKENS, Estimates, Observation, Span, abandons
from backends.speculative.cost import Work
from backends.speculative.passes import Passes
from backends.speculative.session import Commit, Stale
from backends.speculative.sources import Sources
from gateway.core.chat import Usage
from gateway.core.events import Event, Finish, SpeculationReport, TextDelta, UsageReport

NAME = "companion"


class Pace:
    """Tokens and seconds from one commit to a later one."""

    def __init__(self) -> None:
        self._from: float | None = None
        self._to = 0.0
        self._tokens = 0
        self._passes = 0

    def note(self, tokens: int, now: float) -> None:
        # What came with the first commit was generated before the clock ran.
        if self._from is None:
            self._from = now
        else:
            self._tokens += tokens
            self._passes += tokens > 0
        self._to = now

    @property
    def span(self) -> Span:
        seconds = 0.0 if self._from is None else self._to - self._from
        return Span(tokens=self._tokens, seconds=seconds, passes=self._passes)


class Answer:
    """One answer's state. It owns its session and its drafts, and closes both.

    `limit` is for how many tokens drafting is meant to go on: None for all of them. `fixed` keeps
    it from being given up before. `cost` prices what drafting did; `family` is the format of the
    text's tool calls, if it has any.
    """

    def __init__(
        self,
        session: Session,
        drafter: Sources | None,
        *,
        estimates: Estimates,
        limit: int | None,
        fixed: bool,
        clock: Callable[[], float],
        cost: Callable[[Work], float | None] = lambda work: None,
        family: str = "",
    ) -> None:
        self._parser = CallParser(FAMILIES[family]) if family else None
        self._session = session
        self._cost = cost
        self._passes = Passes()
        self._sources = drafter
        self._drafter = drafter
        self._estimates = estimates
        self._limit = limit
        self._fixed = fixed
        self._clock = clock
        self._pinging = asyncio.create_task(session.rtt())
        self._drafting = Pace()
        self._plain = Pace()
        self._window = Pace()
        self._windows: list[float] = []
        self._stopped = drafter is None
        self._lost = False
        self._draft_s: float | None = None
        self._tokens = self._unsaid = 0
        self._drafted = self._accepted = self._missed = self._rounds = self._stale = 0
        self._held_at: list[int] = []
        self._ties = 0

    @property
    def by_socket(self) -> bool:
        """Whether its session went over a WebSocket."""
        return self._session.by_socket

    async def events(self) -> AsyncGenerator[Event, None]:
        """The target's answer. Raises UpstreamError if the session breaks."""
        async with aclosing(self._session.messages()) as messages:
            async for message in messages:
                if not isinstance(message, Commit):
                    self._stale += isinstance(message, Stale)
                    continue
                self._note(message)
                if self._drafter is not None:
                    await self._mind(self._drafter, message)
                for delta in self._deltas(message):
                    if isinstance(delta, TextDelta):
                        delta = replace(delta, tokens=self._unsaid)
                        self._unsaid = 0
                    yield delta
                if message.finish is not None:
                    yield self.report()
                    yield Finish(reason=self._reason(message.finish))
                    yield UsageReport(usage=_usage(message))

    def _deltas(self, commit: Commit) -> list[Delta]:
        # Only ever whole characters; a model's own invalid bytes become U+FFFD.
        text = commit.text_bytes.decode("utf-8", "replace")
        if self._parser is None:
            return [TextDelta(text=text)] if text else []
        deltas = self._parser.feed(text)
        return [*deltas, *self._parser.finish()] if commit.finish is not None else deltas

    def _reason(self, finish: str) -> str:
        """As the engine's own answers have it (backends/engine/answer.py)."""
        called = self._parser is not None and 0 < self._parser.calls == self._parser.whole
        return "tool_calls" if called and finish == "stop" else finish

    def report(self) -> SpeculationReport:
        sources, tried = self._sources, self._accepted + self._missed
        sent = {} if sources is None else sources.counts
        seen = self.observation()
        return SpeculationReport(
            strategy=self._strategy(),
            drafted=self._drafted,
            accepted=self._accepted,
            rounds=self._rounds,
            gain=self._gain(),
            tokens=self._tokens,
            alpha=self._accepted / tried if tried else None,
            proposed=sum(n for n, _ in sent.values()),
            stale=self._stale,
            sources=sent,
            predicted=None if self._sources is None else self._estimates.expected_gain,
            usd_delta=self._usd_delta(),
            rtt_s=seen.rtt_s,
            draft_s=seen.draft_s,
            verify_s=self._passes.seconds,
            held_at=tuple(self._held_at),
            ties=self._ties,
        )

    def _usd_delta(self) -> float | None:
        if self._sources is None:
            return 0.0
        made, busy_s = self._sources.busy
        target_s = self._plain.span.rate or self._estimates.target_s or 0.0
        saved = self._tokens - self._rounds
        return self._cost(Work(drafted=made, draft_s=busy_s, saved_passes=saved, target_s=target_s))

    def observation(self) -> Observation:
        """What this answer teaches about the pair."""
        rtt = None
        if self._pinging.done() and not self._pinging.cancelled():
            rtt = self._pinging.result()
        return Observation(
            # Drafting that died says nothing about what drafting costs.
            drafting=Span() if self._lost else self._drafting.span,
            plain=self._plain.span,
            draft_s=self._draft_s if self._drafter is None else self._drafter.draft_s,
            rtt_s=rtt,
            drafted=self._drafted,
            accepted=self._accepted,
            missed=self._missed,
            verify_s=self._passes.seconds,
        )

    async def aclose(self) -> None:
        self._pinging.cancel()
        try:
            if self._drafter is not None:
                await self._stop(self._drafter)
        finally:
            await self._session.aclose()

    def _note(self, commit: Commit) -> None:
        tokens, now = len(commit.tokens), self._clock()
        self._tokens += tokens
        self._unsaid += tokens
        self._rounds += tokens > 0
        self._drafted += commit.n_draft_used
        self._accepted += commit.n_accepted
        # What was verified behind the first one that did not hold was never tried.
        self._missed += commit.n_accepted < commit.n_draft_used
        self._held_at += [0] * (commit.n_accepted - len(self._held_at))
        for at in range(commit.n_accepted):
            self._held_at[at] += 1
        epsilon, margin = self._session.epsilon, commit.margin_min
        self._ties += epsilon is not None and margin is not None and margin < epsilon
        if self._drafter is not None:
            self._passes.note(commit.n_draft_used + 1, now)
        if self._drafter is not None:
            self._drafting.note(tokens, now)
            self._window.note(tokens, now)
        elif commit.n_draft_used == 0:  # what was still on its way is no plain pass
            self._plain.note(tokens, now)

    async def _mind(self, drafter: Sources, commit: Commit) -> None:
        """Keep the drafts in step, and stop them where they do not pay."""
        if drafter.lost:
            self._lost = True
            await self._stop(drafter)
            return
        await drafter.hear(commit)
        window = self._window.span
        if window.tokens >= PROBE_TOKENS:
            self._windows.append(window.seconds / window.tokens)
            self._window = Pace()
        spent = self._limit is not None and self._tokens >= self._limit
        losing = not self._fixed and abandons(self._windows, self._estimates.plain_s)
        if spent or losing:
            self._stopped = True
            await self._stop(drafter)

    async def _stop(self, drafter: Sources) -> None:
        self._drafter = None
        self._draft_s = drafter.draft_s
        await drafter.aclose()

    def _strategy(self) -> str:
        if self._lost:
            return f"{NAME};draft-lost"
        return f"{NAME};off" if self._stopped else NAME

    def _gain(self) -> float | None:
        """Plain time over this answer's, from the first commit on; 1 if nothing was drafted."""
        drafting, plain = self._drafting.span, self._plain.span
        if not drafting.tokens:
            return 1.0
        # Its own undrafted end saw the same load as its beginning; an average did not.
        known = self._estimates
        plain_s = plain.rate if plain.tells and not known.alone.tells else known.plain_s
        if plain_s is None or not drafting.tells:
            return None
        tokens, seconds = drafting.tokens + plain.tokens, drafting.seconds + plain.seconds
        return plain_s * tokens / seconds


def _usage(commit: Commit) -> Usage:
    return Usage(
        prompt_tokens=commit.prompt_tokens,
        completion_tokens=commit.completion_tokens,
        cached_tokens=commit.cached_tokens,
    )
