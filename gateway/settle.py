"""What one request came to: the facts of its stream, written into its record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import reduce
from typing import Any

from gateway.core.chat import ChatRequest, Usage
from gateway.core.errors import Internal, TandemError, UpstreamError
from gateway.core.events import (
    Answered,
    CascadeReport,
    Collector,
    Document,
    Event,
    Finish,
    PartReport,
    SpeculationReport,
    TextDelta,
    UsageReport,
)
from gateway.core.exchange import Attempt, RecordDraft
from gateway.core.routing import Upstream

Energy = Callable[[Upstream, float], tuple[float | None, bool]]
"""(upstream, busy seconds) → (joules or None, whether that is an estimate)"""

BYTES_PER_TOKEN = 4


class Tally:
    """What went by in one stream: ends, usage, pace."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.finish_reason: str | None = None
        self.finished = False
        self.usage: Usage | None = None
        self.own: Usage | None = None
        self.speculation: dict[str, Any] | None = None
        self.cascade: dict[str, Any] | None = None
        self.answered: Upstream | None = None
        self.parts: list[PartReport] = []
        self._clock = clock
        self._first: float | None = None
        self._last = 0.0

    def note(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._last = self._clock()
                if self._first is None:
                    self._first = self._last
            case Finish():
                self.finished = True
                self.finish_reason = event.reason
            case UsageReport():
                self.usage, self.own = event.usage, event.own or event.usage
            case Document():
                self.finished = True
                choices = event.completion.choices
                self.finish_reason = choices[0].finish_reason if choices else None
                self.usage = self.own = event.completion.usage
            case Answered():
                self.answered = event.upstream
            case PartReport():
                self.parts.append(event)
            case SpeculationReport():
                self.speculation = {
                    "strategy": event.strategy,
                    "drafted": event.drafted,
                    "accepted": event.accepted,
                    "rounds": event.rounds,
                    "gain": event.gain,
                }
                if event.verified is not None:
                    self.speculation["verified"] = {
                        "prompt_tokens": event.verified.prompt_tokens,
                        "completion_tokens": event.verified.completion_tokens,
                    }
            case CascadeReport():
                self.cascade = {
                    "score": round(event.score, 4),
                    "escalated": event.escalated,
                    "why": event.why,
                    "tokens": event.tokens,
                }
            case _:
                pass

    def inter_token_s(self, tokens: int) -> float | None:
        """Mean seconds between tokens after the first; None when there is no between."""
        if self._first is None or tokens < 2:
            return None
        return (self._last - self._first) / (tokens - 1)


def note_outcome(
    draft: RecordDraft,
    *,
    request: ChatRequest,
    upstream: Upstream,
    tally: Tally,
    collector: Collector,
    seconds: float,
    energy: Energy,
) -> None:
    """Tokens, cost and energy of an answer, whole or cut short: what was used is paid for."""
    usage, own = tally.usage, tally.own
    if usage is None or own is None:
        begun = reduce(Usage.plus, (part.usage for part in tally.parts), Usage())
        own = _estimate(request, collector, begun.completion_tokens)
        usage = own.plus(begun)
    draft.usage = own
    draft.finish_reason = tally.finish_reason
    draft.speculation, draft.cascade = tally.speculation, tally.cascade
    draft.inter_token_s = tally.inter_token_s(usage.completion_tokens)
    answered = tally.answered or upstream
    draft.upstream_model, draft.tier = answered.model, answered.tier
    draft.energy_j, draft.energy_estimated = energy(upstream, seconds)
    note_cost(draft, answered)
    draft.usage = usage
    draft.continued = sum(part.result == "cut" for part in tally.parts)
    for part in tally.parts:
        draft.attempts += (
            Attempt(upstream=part.upstream, result=part.result, seconds=part.seconds),
        )
        if draft.cost_usd is None or part.cost_usd is None:
            draft.cost_usd, draft.cost_known, draft.cost_estimated = None, False, False
        elif part.cost_usd:
            draft.cost_usd += part.cost_usd
            draft.cost_estimated = True  # nobody tells what a cancelled answer had read


def note_cost(draft: RecordDraft, upstream: Upstream) -> None:
    """What the answer cost, from the usage and energy that the draft already has."""
    joules = draft.energy_j
    draft.cost_usd = upstream.cost_of(draft.usage, joules)
    draft.cost_known = draft.cost_usd is not None
    by_energy = upstream.price is not None and upstream.price.kwh is not None
    guess = draft.energy_estimated if by_energy else draft.usage.estimated
    draft.cost_estimated = draft.cost_known and guess


def note_end(draft: RecordDraft, error: BaseException | None) -> None:
    """How the request ended, in the words of tandem_requests_total."""
    match error:
        case None:
            draft.outcome = "ok"
        case TandemError():
            draft.outcome, draft.error, draft.status = error.outcome, error.code, error.status
        case asyncio.CancelledError() | GeneratorExit():
            draft.outcome, draft.status = "cancelled", 499
        case _:
            draft.outcome, draft.error = "internal", type(error).__name__
            draft.status = Internal.status


def result_of(error: BaseException | None) -> str:
    """How one attempt ended, in the words of tandem_upstream_requests_total."""
    match error:
        case None:
            return "ok"
        case UpstreamError():
            return error.kind
        case TandemError():
            return "refused"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case _:
            return "internal"


def _estimate(request: ChatRequest, collector: Collector, others: int) -> Usage:
    """Usage that nobody reported, marked as a guess. `others` said so many tokens of the answer."""
    said = sum(len(choice.text.encode()) for choice in collector.completion().choices)
    return Usage(
        prompt_tokens=-(-request.text_bytes // BYTES_PER_TOKEN),
        completion_tokens=max(0, -(-said // BYTES_PER_TOKEN) - others),
        estimated=True,
    )
