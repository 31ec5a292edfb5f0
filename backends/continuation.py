"""An answer that outlives its upstream: cut in the middle, another one goes on with it.

    a ── text ── text ── ╳
                         └─▶ b ── the rest, from the text that the client has ── finish

The client sees one answer: one id, one beginning, one finish. What it costs, and who said what, is
in the record. Only text is gone on with, only by an upstream of the same model (`same_model` is an
operator's word for it, `other_models` the permission to do without), only inside the request's
zone, and at most twice. Where that is not to be had, the answer ends with the error of the cut, as
it would without this backend. Before anything was said the next upstream simply answers instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from backends.base import Backend, Health, Options, Resources, part_of
from backends.combined import any_health, combined, most_tokens
from backends.resume import Said, share
from gateway.core.chat import ChatRequest, Usage
from gateway.core.errors import LocalUnavailable, TandemError, UpstreamBroken
from gateway.core.events import (
    Answered,
    Document,
    Event,
    Finish,
    Frame,
    PartReport,
    TextDelta,
    UsageReport,
    is_content,
)
from gateway.core.exchange import Call
from gateway.core.routing import Upstream

log = logging.getLogger(__name__)

MOST_CONTINUATIONS = 2
"""Upstreams asked to go on with one answer, whether they did or not."""
REST_S = 5.0
"""So long one that failed is asked last, unless it named a time itself: its breaker does not hear
of what the client never saw, and each answer would wait for it again."""


class ContinuationOptions(Options):
    """A config entry of kind continuation.

    `of`: upstreams, the preferred first. An answer goes on where `model` has the same name;
    `same_model`: theirs is the same under several names; `other_models`: another one may go on.
    """

    of: tuple[str, ...] = Field(min_length=2, max_length=4)
    same_model: bool = False
    other_models: bool = False


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer while it is given, whoever gives it.

    `cut` is what ended the last upstream that said something, `report` the same for the record
    once somebody goes on; `by_others` what those before the present one have used.
    """

    said: Said
    finished: bool = False
    left: int = MOST_CONTINUATIONS
    cut: TandemError | None = None
    report: PartReport | None = None
    by_others: Usage | None = None


@dataclass(slots=True, eq=False)
class _Turn:
    """One upstream's part in it. `spoke`: it said something."""

    part: Backend
    asked: ChatRequest
    started: float
    tokens_before: int
    spoke: bool = False


class ContinuationBackend:
    """Several upstreams of one model as one, whose answers do not end with any of them."""

    options_model: ClassVar[type[Options]] = ContinuationOptions

    def __init__(
        self,
        name: str,
        options: ContinuationOptions,
        resources: Resources,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._options = options
        self._parts = {part: part_of(resources.backends, part, name) for part in options.of}
        self._clock = clock
        self._rests_until: dict[str, float] = {}

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, ContinuationOptions)
        return options.of

    @property
    def upstream(self) -> Upstream:
        return combined(self._name, self._options, self._parts.values())

    async def start(self) -> None:
        """The parts start themselves; says so if none of them could go on for another."""
        parts = [part.upstream for part in self._parts.values()]
        pairs = [(a, b) for a in parts for b in parts if a is not b and b.continues]
        if not any(self._same_model(a, b) for a, b in pairs):
            log.warning(
                "%s: no upstream of these can go on with another's answer (other models, or "
                "nothing to ask it with): see same_model, other_models and continuation",
                self._name,
            )

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        reachable = [p for p in self._by_rest() if call.zone.admits(p.upstream.zone)]
        if not reachable:
            raise LocalUnavailable(f"No upstream of {self._name!r} lies in the request's zone.")
        waiting, asked = list(reachable), request
        answer = _Answer(Said(request))
        while True:
            turn = _Turn(waiting.pop(0), asked, self._clock(), answer.said.tokens)
            try:
                async with aclosing(self._listen(turn, call, answer)) as events:
                    async for event in events:
                        yield event
                return
            except TandemError as error:
                if answer.finished:
                    return  # the answer is whole: how its upstream ends is nobody's concern
                self._rest(turn.part.upstream.name, error)
                if turn.spoke:
                    waiting = self._who_goes_on(turn, reachable, answer, call, error)
                    if not waiting:
                        raise
                    rest = answer.said.rest()
                    if rest is not None:
                        self._note_cut(turn, answer, error)
                        asked = rest
                elif answer.cut is None and not (error.retryable and waiting):
                    raise
                else:
                    rest = asked
                    yield self._report(turn, "failed")
            if rest is None:
                for event in self._at_its_limit(turn, answer):
                    yield event
                return
            if answer.cut is not None:
                if not waiting or not answer.left:
                    raise answer.cut
                answer.left -= 1

    async def _listen(
        self, turn: _Turn, call: Call, answer: _Answer
    ) -> AsyncGenerator[Event, None]:
        """What one upstream says, as the client is to hear it: without frames, whose ids differ."""
        async with aclosing(turn.part.stream(turn.asked, call)) as events:
            async for event in events:
                if not turn.spoke and is_content(event):
                    turn.spoke = True
                    yield Answered(upstream=turn.part.upstream)
                    if answer.report is not None:
                        yield answer.report
                        answer.report = None
                match event:
                    case Frame():
                        pass
                    case TextDelta():
                        if text := answer.said.push(event):
                            yield replace(event, text=text, frame=None)
                    case Finish():
                        if text := answer.said.flush():
                            yield TextDelta(text=text)
                        answer.finished = True
                        yield replace(event, frame=None)
                    case UsageReport():
                        yield _usage(event.usage, answer)
                    case Document():
                        answer.finished = True
                        yield event
                    case _:
                        answer.said.note(event)
                        yield replace(event, frame=None)
        if not turn.spoke:
            raise UpstreamBroken(f"{turn.part.upstream.name!r} ended before it said anything.")

    def _by_rest(self) -> list[Backend]:
        """As configured, those that rest behind the others."""
        now = self._clock()
        return sorted(
            self._parts.values(), key=lambda p: self._rests_until.get(p.upstream.name, now) > now
        )

    def _rest(self, name: str, error: TandemError) -> None:
        if error.retryable:
            self._rests_until[name] = self._clock() + (error.retry_after or REST_S)

    def _who_goes_on(
        self,
        turn: _Turn,
        reachable: list[Backend],
        answer: _Answer,
        call: Call,
        error: TandemError,
    ) -> list[Backend]:
        """Who may take over, the one behind the dead one first; nobody if nobody can."""
        late = call.deadline is not None and call.deadline <= time.monotonic()
        if late or not error.retryable or not answer.said.resumable or not answer.left:
            return []
        at = reachable.index(turn.part)
        dead = turn.part.upstream
        return [
            other
            for other in (*reachable[at + 1 :], *reachable[:at])
            if turn.asked.endpoint in other.upstream.continues
            and self._same_model(dead, other.upstream)
        ]

    def _same_model(self, one: Upstream, other: Upstream) -> bool:
        if self._options.same_model or self._options.other_models:
            return True
        return bool(one.model) and one.model == other.model

    def _note_cut(self, turn: _Turn, answer: _Answer, error: TandemError) -> None:
        """Nobody tells what a dead upstream has read and written: it is counted or guessed."""
        answer.said.drop()
        usage = share(turn.asked, answer.said.tokens - turn.tokens_before)
        answer.by_others = usage.plus(answer.by_others or Usage())
        answer.cut = error
        answer.report = replace(
            self._report(turn, "cut"),
            cost_usd=turn.part.upstream.cost_of(usage),
            usage=usage,
        )

    def _report(self, turn: _Turn, result: str) -> PartReport:
        return PartReport(
            upstream=turn.part.upstream.name,
            result=result,
            seconds=self._clock() - turn.started,
        )

    def _at_its_limit(self, turn: _Turn, answer: _Answer) -> list[Event]:
        """The end of an answer that was cut after its last token and before it could say so."""
        used = share(turn.asked, answer.said.tokens - turn.tokens_before)
        text = answer.said.flush()
        ended: list[Event] = [TextDelta(text=text)] if text else []
        return [*ended, Finish(reason="length"), _usage(used, answer)]

    async def count(self, request: ChatRequest) -> int | None:
        return await most_tokens(self._parts.values(), request)

    async def health(self) -> Health:
        return await any_health(self._parts.values())

    async def aclose(self) -> None:
        """Nothing: the parts are not this backend's."""


def _usage(own: Usage, answer: _Answer) -> UsageReport:
    """The whole answer's usage, with the share of who ended it."""
    if answer.by_others is None:
        return UsageReport(usage=own)
    return UsageReport(usage=own.plus(answer.by_others), own=own)
