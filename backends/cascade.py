"""A cascade: a local draft answers if it looks right, else a stronger upstream does.

    draft ─ the first tokens, held ─┬─ sure ─────▶ draft … ─────────────────── finish
                                    └─ unsure, wrong form, declining, in circles
                                                  └─▶ strong ─────────────────  finish

Nothing reaches the client before the decision, which is made once: after `look` tokens of a
stream, at the end of an answer that is not streamed, at the end of a shorter one. A streamed draft
that goes round in circles later, or breaks, is gone on with by an upstream that can (`continues`),
and the record says so. What the evidence is: `evidence.py`. The threshold is a probability, or it
is found so that a given share of drafts is escalated: thresholds do not travel from one traffic to
another, quantiles do (router.md 3.4).
"""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from backends.base import Health, Options, Queues, Resources, part_of
from backends.combined import any_health, combined, most_tokens
from backends.evidence import TOP, Calibration, Evidence
from backends.resume import Said, share
from gateway.core.chat import ChatRequest, Endpoint, Feature, Usage
from gateway.core.errors import TandemError
from gateway.core.events import (
    Answered,
    CascadeReport,
    Event,
    Finish,
    Frame,
    PartReport,
    TextDelta,
    UsageReport,
)
from gateway.core.exchange import Call
from gateway.core.routing import Upstream

WINDOW = 500
"""Decisions that the share is held over."""
ENOUGH = 20
"""Below so many, the threshold that was configured holds."""
CHECK_EVERY = 64
"""Characters of a draft that is being streamed, between two looks for circles."""
SHORT = 48
"""Tokens of an answer that a second opinion can be compared with."""

USUAL = Calibration(
    {"least_margin": 1.0, "mean_margin": 4.0, "mean_logprob": 0.5, "agrees": 0.8, "differs": -0.8},
    bias=-2.5,
)


class CascadeOptions(Options):
    """A config entry of kind cascade.

    `draft`: the upstream asked first, one whose tokens come with log-probabilities. `strong`: who
    answers when it is unsure. `look`: tokens to judge a stream by. `threshold`: the least
    P(right) of a draft that is kept; with `escalate_share`, only until that many decisions are
    known. `second`: an upstream whose answer to a short question is compared with the draft's; the
    draft's own name means another draw of it. `calibration`: a JSON file of weights, as
    `tests/bench/stage2.py --fit` writes it.
    """

    draft: str
    strong: str
    look: int = Field(default=16, ge=1, le=256)
    threshold: float = Field(default=0.5, ge=0, le=1)
    escalate_share: float | None = Field(default=None, gt=0, lt=1)
    second: str | None = None
    calibration: Path | None = None

    @model_validator(mode="after")
    def _two(self) -> CascadeOptions:
        if self.draft == self.strong:
            raise ValueError("draft and strong are the same upstream")
        return self


class _Share:
    """The score below which a given share of the last drafts lay."""

    def __init__(self, share: float | None, threshold: float) -> None:
        self._share = share
        self._threshold = threshold
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    @property
    def least(self) -> float:
        if self._share is None or len(self._sorted) < ENOUGH:
            return self._threshold
        return self._sorted[min(len(self._sorted) - 1, round(self._share * len(self._sorted)))]

    def note(self, score: float) -> None:
        if self._share is None:
            return
        self._latest.append(score)
        insort(self._sorted, score)
        if len(self._latest) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]


@dataclass(slots=True, eq=False)
class _Draft:
    """A draft under way: its stream, what it said so far, and what that tells. `helped` is who else
    was asked about it.
    """

    asked: ChatRequest
    started: float
    stream: AsyncGenerator[Event, None]
    evidence: Evidence
    held: list[Event]
    ended: bool = False
    helped: PartReport | None = None


class CascadeBackend:
    """Two upstreams as one: the cheap one where it will do."""

    options_model: ClassVar[type[Options]] = CascadeOptions

    def __init__(
        self,
        name: str,
        options: CascadeOptions,
        resources: Resources,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._options = options
        self._parts = {
            part: part_of(resources.backends, part, name) for part in self.parts(options)
        }
        self._draft, self._strong = self._parts[options.draft], self._parts[options.strong]
        self._calibration = calibration(options.calibration) if options.calibration else USUAL
        self._share = _Share(options.escalate_share, options.threshold)
        self._clock = clock

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, CascadeOptions)
        second = options.second or options.draft
        return tuple(dict.fromkeys((options.draft, options.strong, second)))

    @property
    def upstream(self) -> Upstream:
        """What both can do, at the price of the strong one: that is the worst case."""
        price = self._options.price_or_listed() or self._strong.upstream.price
        whole = combined(self._name, self._options, self._parts.values())
        return replace(whole, price=price, carries_body=False)

    @property
    def wait_s(self) -> float:
        """Every answer begins with a draft."""
        return self._draft.wait_s if isinstance(self._draft, Queues) else 0.0

    async def start(self) -> None:
        """Nothing: the parts start themselves."""

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        if not self._can_judge(request):
            async with aclosing(self._escalated(request, call)) as events:
                async for event in events:
                    yield event
            return
        draft = self._begin(request, call)
        try:
            verdict = await self._judge(draft, request, call)
            if draft.helped is not None:
                yield draft.helped
            if verdict.escalated:
                await draft.stream.aclose()
                yield self._lost(draft)
                yield verdict
                async with aclosing(self._escalated(request, call)) as events:
                    async for event in events:
                        yield event
                return
            yield Answered(upstream=self._draft.upstream)
            yield verdict
            async with aclosing(self._kept(draft, request, call)) as events:
                async for event in events:
                    yield event
        finally:
            await draft.stream.aclose()

    def _can_judge(self, request: ChatRequest) -> bool:
        """Whether the draft's tokens will tell something, and there is only one of it."""
        if request.endpoint is Endpoint.EMBEDDINGS or Feature.N in request.features:
            return False
        return Feature.LOGPROBS in self._draft.upstream.features

    def _begin(self, request: ChatRequest, call: Call) -> _Draft:
        asked = with_logprobs(request)
        stream = self._draft.stream(asked, call)
        return _Draft(asked, self._clock(), stream, Evidence(request), [])

    async def _judge(self, draft: _Draft, request: ChatRequest, call: Call) -> CascadeReport:
        """Read the draft until it can be told whether to keep it; decide, and remember."""
        look = self._options.look if request.stream else math.inf
        failure: str | None = None
        try:
            async for event in draft.stream:
                draft.evidence.note(event)
                draft.held.append(event)
                if draft.evidence.finish is None and draft.evidence.tokens >= look:
                    break
                if draft.evidence.fault() == "loop":
                    break
            else:
                draft.ended = True
        except TandemError as error:
            if not error.retryable:
                raise
            failure = "failed"
        evidence = draft.evidence
        if failure is None and draft.ended and evidence.tokens <= SHORT:
            second = await self._second(draft, request, call)
            if second is not None:
                evidence.second_opinion(second)
        score = self._calibration.probability(evidence.signals())
        why = failure or evidence.fault() or ("unsure" if score < self._share.least else None)
        if failure is None:
            self._share.note(score)
        return CascadeReport(
            score=score, escalated=why is not None, why=why or "sure", tokens=evidence.tokens
        )

    async def _second(self, draft: _Draft, request: ChatRequest, call: Call) -> str | None:
        """Another answer to compare with, and what it costs; None if none is to be had."""
        name = self._options.second
        if name is None:
            return None
        asked = request
        if name == self._options.draft:
            sampling = replace(request.sampling, temperature=0.7, seed=1)
            asked = replace(request, sampling=sampling)
        part, began = self._parts[name], self._clock()
        other, usage = Evidence(request), None
        report = PartReport(upstream=name, result="failed", seconds=0.0)
        try:
            async with aclosing(part.stream(asked, call)) as events:
                async for event in events:
                    other.note(event)
                    if isinstance(event, UsageReport):
                        usage = event.usage
        except TandemError:
            return None  # one opinion then
        else:
            used = usage or share(asked, other.tokens)
            report = replace(report, result="ok", cost_usd=part.upstream.cost_of(used))
            return other.answer
        finally:
            draft.helped = replace(report, seconds=self._clock() - began)

    async def _escalated(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        yield Answered(upstream=self._strong.upstream)
        async with aclosing(self._strong.stream(request, call)) as events:
            async for event in events:
                yield event

    async def _kept(
        self, draft: _Draft, request: ChatRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """The draft as the client is to hear it; gone on with by the strong one if it must be."""
        said, judged = Said(request), 0
        try:
            async for event in _events(draft):
                if isinstance(event, TextDelta):
                    judged += len(event.text)
                    if judged >= CHECK_EVERY:
                        judged = 0
                        if draft.evidence.fault() == "loop" and self._can_go_on(said):
                            break
                    if text := said.push(event):
                        yield plain(replace(event, text=text), request)
                elif isinstance(event, Finish):
                    if text := said.flush():
                        yield TextDelta(text=text)
                    yield plain(event, request)
                elif not isinstance(event, Frame):
                    said.note(event)
                    yield plain(event, request)
            else:
                return
        except TandemError as error:
            if not error.retryable or not self._can_go_on(said):
                raise
        await draft.stream.aclose()
        said.drop()
        rest, used = said.rest(), share(draft.asked, said.tokens)
        if rest is None:
            yield Finish(reason="length")
            yield UsageReport(usage=used)
            return
        yield replace(self._lost(draft), result="cut", usage=used)
        async with aclosing(self._escalated(rest, call)) as events:
            async for event in events:
                yield _whole_usage(event, used)

    def _can_go_on(self, said: Said) -> bool:
        return said.resumable and said.request.endpoint in self._strong.upstream.continues

    def _lost(self, draft: _Draft) -> PartReport:
        usage = share(draft.asked, draft.evidence.tokens)
        return PartReport(
            upstream=self._draft.upstream.name,
            result="cancelled",
            seconds=self._clock() - draft.started,
            cost_usd=self._draft.upstream.cost_of(usage),
        )

    async def count(self, request: ChatRequest) -> int | None:
        return await most_tokens(self._parts.values(), request)

    async def health(self) -> Health:
        return await any_health((self._draft, self._strong))

    async def aclose(self) -> None:
        """Nothing: the parts are not this backend's."""


async def _events(draft: _Draft) -> AsyncGenerator[Event, None]:
    """All that a draft says: what was held, then the rest."""
    for event in draft.held:
        yield event
    if not draft.ended:
        async for event in draft.stream:
            draft.evidence.note(event)
            yield event


def with_logprobs(request: ChatRequest) -> ChatRequest:
    """The same question, its answer to come token by token with log-probabilities."""
    top = max(TOP, request.sampling.logprobs or 0)
    field = {"logprobs": True, "top_logprobs": top}
    body = field if request.endpoint is Endpoint.CHAT else {"logprobs": top}
    return replace(
        request,
        stream=True,
        sampling=replace(request.sampling, logprobs=top),
        features=request.features | {Feature.LOGPROBS},
        body={**request.body, **body},
    )


def plain(event: Event, request: ChatRequest) -> Event:
    """A draft's event as its client asked for it: what was only for us is left out."""
    asked = request.sampling.logprobs
    if isinstance(event, TextDelta) and event.logprobs:
        shown = () if asked is None else event.logprobs
        shown = tuple(replace(token, top=token.top[:asked]) for token in shown)
        return replace(event, logprobs=shown, frame=None)
    return event if event.frame is None else replace(event, frame=None)


def _whole_usage(event: Event, used: Usage) -> Event:
    """Usage of an answer that two have said: of both, with the share of who ended it."""
    if not isinstance(event, UsageReport):
        return event if event.frame is None else replace(event, frame=None)
    return UsageReport(usage=event.usage.plus(used), own=event.usage)


def calibration(path: Path) -> Calibration:
    """From its file, `{"bias": …, "weights": {…}}`. Raises ValueError with what is wrong."""
    try:
        found = json.loads(path.read_bytes())
        return Calibration(
            {str(name): float(weight) for name, weight in found["weights"].items()},
            bias=float(found["bias"]),
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"calibration {path}: {error}") from None
