"""S3b: drafts verified by a server that only knows completions, prompts of ids and a prefix cache.

The server waits between rounds, so this pays only close by, and the realised pace decides
(fanout_answer.py has one answer's story, fanout_wire.py its requests, fanout_probe.py the proof).
Exact by the server's own sampler: so never with a seed (each round would draw the same noise),
penalties (drafts would count as the prompt), or anything that counts from an answer's beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import ClassVar

from backends.openai import OpenAIBackend
from backends.profiles.base import GUARDED_FIELDS
from backends.speculative.controller import Estimates, Observation, Span
from backends.speculative.seams import Drafting
from backends.speculative.strategies.base import Bill, Declined, Events, Surprise
from backends.speculative.strategies.fanout_answer import NAME, Answer, Means
from backends.speculative.strategies.fanout_probe import FanoutProbe
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import EngineFailed
from gateway.core.events import SpeculationReport, UsageReport, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Price

FIT = frozenset(
    {
        Feature.CHAT,
        Feature.COMPLETION,
        Feature.TOKEN_PROMPT,
        Feature.TOP_K,
        Feature.MIN_P,
        Feature.LOGIT_BIAS,
        Feature.PREDICTION,
    }
)
"""What a request may need. Of what it may say besides, only these fields; others are not guessed
at, for who knows whether they count from an answer's beginning."""
PLAIN_FIELDS = GUARDED_FIELDS | frozenset(
    "model messages prompt stream stream_options max_tokens max_completion_tokens temperature "
    "top_p stop user metadata prediction".split()
)
VERSION_S = 2.0


class PrefixFanout:
    """Rounds of prompts side by side, for one upstream."""

    name: ClassVar[str] = NAME

    def __init__(
        self,
        draft: Drafting,
        target: OpenAIBackend,
        *,
        ahead: int,
        fixed: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draft = draft
        self._target = target
        self._fixed = fixed
        self._clock = clock
        self._means = Means(
            draft=draft, target=target, ahead=ahead, fixed=fixed, clock=clock, spelt=self._spelt
        )
        self.estimates = Estimates()
        self._samples = False
        self._pieces: dict[int, bytes] = {}

    def declines(self, request: ChatRequest) -> str:
        if metered(self._target.upstream.price) or not self._target.profile.self_hosted:
            return "metered"  # a prefix is billed for each prompt of each round
        if request.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETION) or request.suffix:
            return "endpoint"
        if request.endpoint is Endpoint.COMPLETION and request.sampling.max_tokens is None:
            return "max_tokens"  # servers differ in how many they then write
        if request.continues:
            return "continues"
        if unfit := request.features - FIT:
            return sorted(unfit)[0]
        said = {name for name, value in request.body.items() if value is not None}
        if odd := said - PLAIN_FIELDS:
            return "field" if len(min(odd)) > 40 else min(odd)
        if request.sampling.max_tokens is not None and request.sampling.max_tokens < 2:
            return "short"
        return ""

    async def version(self) -> str:
        told = await self._target.raw.look("/version", VERSION_S)
        return f"{self._target.upstream.model}@{str(told.get('version', ''))[:64]}"

    async def probe(self, bill: Bill) -> None:
        if self._draft.vocabulary is None:
            raise EngineFailed("the draft model is not loaded")
        self._samples = await FanoutProbe(self._target, self._draft.prompts, bill).run()

    async def events(self, request: ChatRequest, call: Call) -> Events:
        limit = None if self._fixed else self.estimates.draft_tokens()
        if not request.sampling.greedy and not self._samples:
            raise Declined("temperature")  # equal prompts were sampled alike, or nobody could tell
        if limit == 0 or self._draft.vocabulary is None:
            async with aclosing(self._plainly(request, call)) as events:
                async for event in events:
                    yield event
            return
        answer = Answer(self._means, request, call, limit=limit, estimates=self.estimates)
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    yield event
        finally:
            await answer.aclose()
            self.estimates = self.estimates.after(answer.observation())
        if answer.surprise:
            raise Surprise(answer.surprise)

    async def _plainly(self, request: ChatRequest, call: Call) -> Events:
        """The stream itself, timed: what drafting has to beat."""
        yield SpeculationReport(strategy=f"{self.name};off", gain=1.0)
        first, last, tokens = None, 0.0, 0
        async with aclosing(self._target.stream(request, call)) as events:
            async for event in events:
                if is_content(event):
                    last = self._clock()
                    first = last if first is None else first
                elif isinstance(event, UsageReport):
                    tokens = event.usage.completion_tokens
                yield event
        if first is not None and tokens > 1:
            span = Span(tokens=tokens - 1, seconds=last - first, passes=tokens - 1)
            self.estimates = self.estimates.after(Observation(plain=span))

    async def _spelt(self, tokens: Sequence[int]) -> list[bytes]:
        """The tokens' bytes; the local vocabulary is the target's, the probe has seen to it."""
        new = sorted({token for token in tokens if token not in self._pieces})
        if new:
            self._pieces |= zip(new, await self._draft.prompts.pieces(new), strict=True)
        return [self._pieces[token] for token in tokens]


def metered(price: Price | None) -> bool:
    """Whether somebody pays for each token that is read."""
    return price is not None and price.kwh is None and bool(price.input or price.cached_input)
