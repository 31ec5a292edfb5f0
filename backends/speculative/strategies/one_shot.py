"""S2: the local model writes the answer as it expects it, and the upstream gets it as `prediction`.

The upstream streams its own answer and skips through what it would have said anyway; that no token
of it changes is the provider's promise, which the probe tries out. The draft costs time before the
first token, so it has a budget, and the realised pace of whole answers decides whether there is one
at all. What of it did not hold is billed as output (OpenAI, Cerebras) and is in the usage.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from backends.base import Backend
from backends.openai import OpenAIBackend
from backends.speculative.controller import Estimates, Observation, Span
from backends.speculative.strategies.base import Bill, Declined, Events, Surprise
from backends.speculative.strategies.one_shot_probe import probe
from gateway.core.chat import ChatRequest, Endpoint, Feature, Sampling, Usage
from gateway.core.errors import TandemError, UpstreamRejected
from gateway.core.events import (
    Document,
    Finish,
    SpeculationReport,
    TextDelta,
    UsageReport,
    is_content,
)
from gateway.core.exchange import Call

LEAST_CHARS = 24
"""A shorter prediction gains nothing that anybody would notice."""
DRAFT_TOKENS = 2048
REFUSALS = 3
"""So many answers in a row that were refused with a prediction end the strategy."""

TEXT_ONLY = frozenset({Feature.CHAT, Feature.TOP_K, Feature.MIN_P, Feature.SEED})
"""Whatever else a request needs (tools, n, logprobs, penalties, a form) does not go with it."""
_FINGERPRINT = re.compile(rb'"system_fingerprint":\s?"([\w.:-]{1,64})"')


class OneShot:
    """`prediction` by a local draft, for one upstream."""

    name: ClassVar[str] = "one_shot"

    def __init__(
        self,
        draft: Backend,
        target: OpenAIBackend,
        *,
        budget_s: float,
        fixed: bool,
        any_model: bool,
        clock: Callable[[], float],
    ) -> None:
        """`any_model`: an operator says that its model takes predictions; `fixed`: always draft."""
        self._draft = draft
        self._target = target
        self._budget_s = budget_s
        self._fixed = fixed
        self._any_model = any_model
        self._clock = clock
        self._fingerprint = ""
        self._refusals = 0
        self.estimates = Estimates()

    def declines(self, request: ChatRequest) -> str:
        takes = self._target.profile.predicts
        if request.endpoint is not Endpoint.CHAT or request.dialect != "openai_chat":
            return "endpoint"
        if not self._any_model and not self._target.upstream.model.startswith(takes.models):
            return "model"
        if request.continues:
            return "continues"
        if request.body.get("prediction") is not None:
            return "own-prediction"  # the client's goes on as it is, and is the better one
        if request.sampling.max_tokens == 1:
            return "short"
        unfit = request.features - TEXT_ONLY
        barred = [name for name in takes.bars if request.body.get(name) is not None]
        return next(iter([*sorted(unfit), *sorted(barred)]), "")

    async def version(self) -> str:
        return f"{self._target.upstream.model}@{self._fingerprint}"

    async def probe(self, bill: Bill) -> None:
        self._fingerprint = await probe(self._target, bill) or self._fingerprint

    async def events(self, request: ChatRequest, call: Call) -> Events:
        began = self._clock()
        drafting = self._fixed or self.estimates.draft_tokens() != 0
        text = await self._drafted(request, call) if drafting else ""
        usage: Usage | None = None
        said = refused = False
        try:
            async with aclosing(self._target.stream(_with(request, text), call)) as events:
                async for event in events:
                    if not said and is_content(event):
                        said = True
                        self._note_version(event.frame)
                    if isinstance(event, UsageReport):
                        usage = event.usage
                    elif isinstance(event, Document):
                        usage = event.completion.usage
                    yield event
        except UpstreamRejected:
            if said or not text:
                raise
            refused = True
        if refused:
            async with aclosing(self._without(request, call)) as plain:
                async for event in plain:
                    yield event
            return
        self._refusals = 0
        yield self._report(usage or Usage(), self._clock() - began, drafted=bool(text))

    async def _without(self, request: ChatRequest, call: Call) -> Events:
        """A request that was refused with a prediction. If it is not without one, that was why."""
        yield SpeculationReport(strategy="stream;refused")
        async with aclosing(self._target.stream(request, call)) as events:
            async for event in events:
                yield event
        self._refusals += 1
        if self._refusals >= REFUSALS:
            self._refusals = 0
            raise Surprise("refused")

    async def _drafted(self, request: ChatRequest, call: Call) -> str:
        """The answer, or as much of its head as the budget allows."""
        pieces: list[str] = []
        try:
            async with asyncio.timeout(self._budget_s):
                async with aclosing(self._draft.stream(_for_the_draft(request), call)) as events:
                    async for event in events:
                        if isinstance(event, TextDelta):
                            pieces.append(event.text)
                        elif isinstance(event, Finish):
                            break
        except TimeoutError:
            pass
        except TandemError:
            raise Declined("draft-lost") from None
        text = "".join(pieces)
        if len(text) < LEAST_CHARS:
            raise Declined("no-draft")
        return text

    def _note_version(self, frame: bytes | None) -> None:
        found = None if frame is None else _FINGERPRINT.search(frame)
        if found is not None:
            self._fingerprint = found[1].decode()

    def _report(self, usage: Usage, seconds: float, *, drafted: bool) -> SpeculationReport:
        held, failed = usage.accepted_prediction_tokens, usage.rejected_prediction_tokens
        tokens = max(0, usage.completion_tokens - failed)
        passes = max(1, tokens - held)
        span = Span(tokens=tokens, seconds=seconds, passes=passes if held or failed else 1)
        seen = Observation(
            drafting=span if drafted else Span(),
            plain=Span() if drafted else span,
            drafted=held + failed,
            accepted=held,
        )
        plain_s = self.estimates.plain_s
        self.estimates = self.estimates.after(seen)
        gain = plain_s * tokens / seconds if drafted and plain_s and tokens and seconds else None
        return SpeculationReport(
            strategy=self.name if drafted else f"{self.name};off",
            drafted=held + failed,
            accepted=held,
            rounds=passes,
            gain=gain if drafted else 1.0,
            alpha=held / (held + failed) if held + failed else None,
        )


def _with(request: ChatRequest, text: str) -> ChatRequest:
    if not text:
        return request
    body: Mapping[str, Any] = {**request.body, "prediction": {"type": "content", "content": text}}
    return replace(request, body=body)


def _for_the_draft(request: ChatRequest) -> ChatRequest:
    """The same question, for its likeliest answer."""
    said = request.sampling
    most = min(said.max_tokens or DRAFT_TOKENS, DRAFT_TOKENS)
    sampling = Sampling(max_tokens=most, temperature=0.0, stop=said.stop)
    return replace(request, stream=True, sampling=sampling, features=frozenset({Feature.CHAT}))
