"""Draft and review, an approximate mode: a local model answers, a remote one accepts or corrects.

    local ── draft ──▶ remote reads it ──▶ ACCEPT            the draft, as it is
                                      └──▶ KEEP n, and more  its first lines, and what must follow

For APIs that verify nothing: the remote model reads the draft as input, which is cheap and fast,
and writes a word where it agrees. What it lets pass is not what it would have said, so such an
upstream is `approximate`: headers, records and metrics say so, no alias has it that was not written
by hand, and who demands `exact` never gets it. Where there is no draft, or no verdict to be read,
the remote model simply answers, and then it is its own answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from backends.base import Health, Options, Resources, part_of
from backends.combined import combined
from backends.resume import share
from backends.review_wire import (
    VERDICT_TOKENS,
    Reader,
    Unreadable,
    Verdict,
    fence_for,
    instructions,
)
from gateway.core import quantity
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Usage, utf8_length
from gateway.core.errors import LocalUnavailable, TandemError, UpstreamBroken
from gateway.core.events import (
    Answered,
    Event,
    Finish,
    PartReport,
    SpeculationReport,
    TextDelta,
    UsageReport,
)
from gateway.core.exchange import Call
from gateway.core.routing import Upstream

TEXT_ONLY = frozenset({Feature.CHAT, Feature.TOP_K, Feature.MIN_P, Feature.SEED})
BYTES_PER_TOKEN = 4
STRATEGY = "approximate;review"


class ReviewOptions(Options):
    """A config entry of kind review.

    `draft` names the upstream that answers first, `target` the one that reviews. A draft that takes
    longer than `draft_for`, or more than `draft_tokens`, is not sent: the target answers by itself.
    """

    approximate: ClassVar[bool] = True

    draft: str
    target: str
    draft_for: Annotated[float, BeforeValidator(quantity.duration), Field(gt=0, le=120)] = 10.0
    draft_tokens: int = Field(default=512, ge=16, le=8192)


@dataclass(frozen=True, slots=True)
class _Draft:
    text: str
    finish: str
    usage: Usage
    seconds: float


class NoDraft(Exception):
    """Why the target answers by itself, in a word; and what was begun of a draft, if one was."""

    def __init__(self, why: str, begun: PartReport | None = None) -> None:
        super().__init__(why)
        self.begun = begun


class ReviewBackend:
    """A drafter and a reviewer, as one upstream."""

    options_model: ClassVar[type[Options]] = ReviewOptions

    def __init__(
        self,
        name: str,
        options: ReviewOptions,
        resources: Resources,
        *,
        clock: Callable[[], float] = time.monotonic,
        fence: Callable[[str], str] = fence_for,
    ) -> None:
        self._name = name
        self._options = options
        self._draft = part_of(resources.backends, options.draft, name)
        self._target = part_of(resources.backends, options.target, name)
        self._clock = clock
        self._fence = fence

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, ReviewOptions)
        return options.draft, options.target

    @property
    def upstream(self) -> Upstream:
        target = self._target.upstream
        whole = combined(self._name, self._options, (self._target, self._draft))
        return replace(
            whole,
            tier=self._options.tier_or_default() if self._options.tier else target.tier,
            features=whole.features & TEXT_ONLY,
            price=self._options.price_or_listed() or target.price,
            strategy=STRATEGY,
            approximate=True,
        )

    async def start(self) -> None:
        """Nothing: the parts start themselves."""

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        if not call.zone.admits(self.upstream.zone):
            raise LocalUnavailable(f"Upstream {self._name!r} lies outside the request's zone.")
        try:
            draft = await self._drafted(request, call)
        except NoDraft as why:
            if why.begun is not None:
                yield why.begun
            async with aclosing(self._by_itself(request, call, str(why))) as plain:
                async for event in plain:
                    yield event
            return
        began = self._clock()
        try:
            async with aclosing(self._reviewed(request, call, draft)) as events:
                async for event in events:
                    yield event
            return
        except Unreadable:
            read = _estimate(request, draft.text)
        if (paid := self._paid(draft)) is not None:
            yield paid
        yield PartReport(
            upstream=self._options.target,
            result="failed",
            seconds=self._clock() - began,
            cost_usd=self._target.upstream.cost_of(read),
            usage=read,
        )
        async with aclosing(self._by_itself(request, call, "no-verdict")) as plain:
            async for event in plain:
                yield event

    async def count(self, request: ChatRequest) -> int | None:
        return await self._target.count(request)

    async def health(self) -> Health:
        """The target's: without a draft it answers alone."""
        return await self._target.health()

    async def aclose(self) -> None:
        """Nothing: the parts are not this backend's."""

    async def _by_itself(
        self, request: ChatRequest, call: Call, why: str
    ) -> AsyncGenerator[Event, None]:
        """The target's own answer, which is nobody's approximation."""
        yield Answered(upstream=self._target.upstream)
        yield SpeculationReport(strategy=f"stream;{why}")
        async with aclosing(self._target.stream(request, call)) as events:
            async for event in events:
                yield event

    async def _drafted(self, request: ChatRequest, call: Call) -> _Draft:
        """A whole draft. Raises NoDraft."""
        if request.endpoint is not Endpoint.CHAT or request.continues:
            raise NoDraft("endpoint")
        if request.sampling.stop:
            raise NoDraft("stop")  # it would end the review, not the answer
        began = self._clock()
        most = self._options.draft_tokens
        wanted = min(request.sampling.max_tokens or most, most)
        asked = _limited(replace(request, stream=True), wanted)
        text, finish = "", ""
        usage: Usage | None = None

        def used() -> Usage:
            return usage or share(asked, -(-utf8_length(text) // BYTES_PER_TOKEN))

        def begun(result: str) -> PartReport:
            return PartReport(
                upstream=self._options.draft,
                result=result,
                seconds=self._clock() - began,
                cost_usd=0.0 if result == "failed" else self._draft.upstream.cost_of(used()),
            )

        try:
            async with asyncio.timeout(self._options.draft_for):
                async with aclosing(self._draft.stream(asked, call)) as events:
                    async for event in events:
                        match event:
                            case TextDelta():
                                text += event.text
                            case Finish():
                                finish = event.reason
                            case UsageReport():
                                usage = event.usage
                            case _:
                                pass
        except TimeoutError:
            raise NoDraft("draft-late", begun("cancelled")) from None
        except TandemError:
            raise NoDraft("draft-lost", begun("failed")) from None
        cut = finish == "length" and wanted != request.sampling.max_tokens
        if cut or finish not in ("stop", "length") or not text.strip():
            raise NoDraft("draft-unfinished", begun("empty" if not text.strip() else "ok"))
        return _Draft(text, finish, used(), self._clock() - began)

    async def _reviewed(
        self, request: ChatRequest, call: Call, draft: _Draft
    ) -> AsyncGenerator[Event, None]:
        """The answer that the verdict makes of a draft. Raises Unreadable before any content."""
        fence = self._fence(draft.text)
        reader = Reader(draft.text, fence)
        left = request.sampling.max_tokens
        finish = ""
        read: Usage | None = None
        asked = _with_draft(request, instructions(draft.text, fence))
        async with aclosing(self._target.stream(asked, call)) as events:
            async for event in events:
                match event:
                    case TextDelta():
                        known = reader.verdict is not None
                        text = reader.push(event.text)
                        tokens = event.tokens or 1
                    case Finish():
                        known = reader.verdict is not None
                        text, tokens, finish = reader.flush(), 0, event.reason
                    case UsageReport():
                        read = event.usage
                        continue
                    case _:
                        continue
                verdict = reader.verdict
                if verdict is not None and not known:
                    yield self._report(draft, verdict)
                    if left is not None:
                        left -= _share(draft, verdict)
                elif left is not None and text:
                    left -= tokens
                    if left < 0:
                        finish, text = "length", ""
                if text:
                    yield TextDelta(text=text)
                if finish == "length" and left is not None and left < 0:
                    break
        if reader.verdict is None or not finish:
            raise UpstreamBroken("The reviewer ended its stream without a finish.")
        accepted = reader.verdict.word == "accept"
        yield Finish(reason=draft.finish if accepted else finish)
        own = read or _estimate(request, draft.text)
        if (paid := self._paid(draft)) is not None:
            yield paid
        yield UsageReport(usage=own.plus(draft.usage), own=own)

    def _paid(self, draft: _Draft) -> PartReport | None:
        """What a whole draft costs, whatever came of it; None if it is known to cost nothing."""
        cost = self._draft.upstream.cost_of(draft.usage)
        if cost == 0.0:
            return None
        return PartReport(
            upstream=self._options.draft, result="ok", seconds=draft.seconds, cost_usd=cost
        )

    def _report(self, draft: _Draft, verdict: Verdict) -> SpeculationReport:
        return SpeculationReport(
            strategy=f"{STRATEGY};{verdict.word}",
            drafted=draft.usage.completion_tokens,
            accepted=_share(draft, verdict),
            rounds=1,
        )


def _share(draft: _Draft, verdict: Verdict) -> int:
    """The draft's tokens that were kept, by its text's length."""
    kept = min(len(verdict.kept), len(draft.text))
    return round(draft.usage.completion_tokens * kept / len(draft.text))


def _estimate(request: ChatRequest, draft: str) -> Usage:
    """What a review that nobody counted has read, at least."""
    read = request.text_bytes + len(instructions(draft, "").encode())
    return Usage(prompt_tokens=-(-read // BYTES_PER_TOKEN), estimated=True)


def _limited(request: ChatRequest, tokens: int | None) -> ChatRequest:
    """The same with another limit, in the client's own body too."""
    if tokens is None:
        return request
    names = ("max_tokens", "max_completion_tokens")
    body: dict[str, Any] = {k: v for k, v in request.body.items() if k not in names}
    body["max_tokens"] = tokens
    return replace(request, body=body, sampling=replace(request.sampling, max_tokens=tokens))


def _with_draft(request: ChatRequest, text: str) -> ChatRequest:
    """The conversation with one turn more, which asks for the review."""
    turn = {"role": "user", "content": text}
    body = {**request.body, "messages": [*(m.raw for m in request.messages), turn]}
    most = request.sampling.max_tokens
    return _limited(
        replace(
            request,
            stream=True,
            body=body,
            messages=(*request.messages, Message(role="user", text=text, raw=turn)),
        ),
        None if most is None else most + VERDICT_TOKENS,
    )
