"""A routing decision told phase by phase: who was removed by what, and what each would have cost.

It asks the same planner that live requests take, as a dry run: nothing is opened, counted, learnt
or remembered. Estimates say what they rest on, and are null where nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.balancer import Balanced
from gateway.core.chat import ChatRequest, Usage
from gateway.core.errors import TandemError
from gateway.core.exchange import Exchange
from gateway.core.routing import Candidate, Facts, Rejection
from gateway.filters import Reason
from gateway.plan import Plan, Planner, Trace
from gateway.privacy import voices
from router_policies.base import Rule
from router_policies.facts import HEADER

ASSUMED_COMPLETION = 256
"""Tokens an answer is taken to have when the request sets no limit."""

Terms = Callable[[Candidate], Mapping[str, float | None] | None]
Pace = Callable[[str], float | None]
"""An upstream's usual seconds between two tokens; None if nobody has measured it."""


async def explain(
    planner: Planner, exchange: Exchange, pace: Pace = lambda upstream: None
) -> dict[str, Any]:
    """The explanation, as JSON. Raises TandemError only for a request that no plan can begin with:
    an unknown model, a header that cannot be read.
    """
    trace = Trace()
    plan: Plan | None = None
    error: TandemError | None = None
    try:
        plan = await planner.plan(exchange, trace)
    except TandemError as caught:
        if not trace.considered:
            raise
        error = caught
    request = exchange.request
    usage = assumed_usage(request, trace.facts)
    rejected = plan.route.rejected if plan is not None else trace.rejected
    return {
        "object": "route.explanation",
        "model": request.model,
        "zone": trace.zone.label,
        "decision": None if plan is None else _decision(plan),
        "error": None if error is None else {"code": error.code, "message": error.message},
        "phases": _phases(planner, exchange, trace, rejected, plan),
        "candidates": _candidates(trace, plan, rejected, usage, pace, _terms(planner, trace, plan)),
        "balanced": [] if plan is None or plan.balanced is None else _groups(plan.balanced),
        "assumed": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "prompt_tokens_estimated": not trace.counted,
        },
        "rules": _rules(planner.rulebook.rules, trace.facts, plan),
        "contributions": _contributions(plan, request),
        "facts": dict(sorted((trace.facts if plan is None else plan.facts).items())),
        "found": list(trace.found.kinds),
    }


def assumed_usage(request: ChatRequest, facts: Facts) -> Usage:
    """What the request and its answer are taken to have, for costs that are only compared."""
    limit = request.sampling.max_tokens
    if request.inputs:
        limit = 0
    return Usage(
        prompt_tokens=int(facts["prompt_tokens"]),
        completion_tokens=ASSUMED_COMPLETION if limit is None else limit,
        estimated=True,
    )


def shown(facts: Facts) -> dict[str, Any]:
    """Facts for other eyes than the client's own: that a header was there, not what it said."""
    return {
        name: "(set)" if name.startswith(HEADER) else value for name, value in sorted(facts.items())
    }


def _decision(plan: Plan) -> dict[str, Any]:
    route = plan.route
    return {
        "upstream": route.candidates[0].upstream.name,
        "order": [each.upstream.name for each in route.candidates],
        "reason": route.reason,
        "rule": route.rule,
        "score": route.score,
        "worth": dict(route.worth),
        "balance": None if plan.balanced is None else route.balance,
    }


def _contributions(plan: Plan | None, request: ChatRequest) -> dict[str, float]:
    """What gave how much to a predicted score; the parts add up to it."""
    if plan is None or plan.assessor is None or "router.score" not in plan.facts:
        return {}
    return dict(plan.assessor.explain(request))


def _groups(balanced: Balanced) -> list[list[dict[str, Any]]]:
    """Those that stand equal, each group with its best member first."""
    groups = []
    for group in balanced.groups:
        total = sum(member.weight for member in group)
        groups.append(
            [
                {
                    "upstream": member.name,
                    "share": member.weight / total,
                    "in_flight": member.candidate.in_flight,
                    "warm_tokens": member.warm,
                    "cost_ms": _ms(member.cost_s),
                }
                for member in group
            ]
        )
    return groups


def _phases(
    planner: Planner,
    exchange: Exchange,
    trace: Trace,
    rejected: tuple[Rejection, ...],
    plan: Plan | None,
) -> list[dict[str, Any]]:
    """What each phase had its say on, in their order: none can undo what an earlier one did."""
    book = planner.rulebook
    said = voices(
        exchange.caller,
        exchange.headers,
        book.default_zone,
        trace.zone_by_rule,
        trace.found,
        trace.zone_before,
    )
    by_reason: dict[str, list[dict[str, Any]]] = {reason: [] for reason in Reason}
    for each in rejected:
        by_reason.setdefault(each.reason, []).append(
            {"upstream": each.upstream, "why": each.detail}
        )
    listed, reached = trace.listed, [each.upstream.name for each in trace.considered]
    phases: list[dict[str, Any]] = [
        {
            "phase": "name",
            "alias": trace.alias,
            "pinned": trace.alias is None,
            "candidates": list(listed),
        },
        {
            "phase": "rules: reach",
            "added": [name for name in reached if name not in listed],
            "removed": [
                {"upstream": name, "why": "a rule without fallback names others"}
                for name in listed
                if name not in reached
            ],
        },
        {
            "phase": "zone",
            "zone": trace.zone.label,
            "said": [{"by": who, "zone": zone.label} for who, zone in said],
            "removed": by_reason.pop(Reason.ZONE),
        },
    ]
    phases += [{"phase": str(reason), "removed": those} for reason, those in by_reason.items()]
    if plan is not None:
        phases.append({"phase": "policy", "decided": plan.route.reason, **_decision(plan)})
    return phases


def _candidates(
    trace: Trace,
    plan: Plan | None,
    rejected: tuple[Rejection, ...],
    usage: Usage,
    pace: Pace,
    terms: Terms,
) -> list[dict[str, Any]]:
    """All that were considered, those that would be asked first."""
    order = [] if plan is None else [each.upstream.name for each in plan.route.candidates]
    removed = {each.upstream: each for each in rejected}
    places = {name: place for place, name in enumerate(order)}
    considered = sorted(
        trace.considered, key=lambda each: places.get(each.upstream.name, len(places))
    )
    return [
        _candidate(each, places, removed.get(each.upstream.name), trace.counted, usage, pace)
        | {"worth": terms(each) if each.upstream.name in places else None}
        for each in considered
    ]


def _terms(planner: Planner, trace: Trace, plan: Plan | None) -> Terms:
    """What the learned policy holds of a candidate; of none where it has nothing to go by."""
    alias = None if trace.alias is None else planner.rulebook.aliases[trace.alias]
    if plan is None or alias is None or alias.terms is None or "router.score" not in plan.facts:
        return lambda candidate: None
    of, facts = alias.terms, plan.facts
    return lambda candidate: of(candidate, facts)


def _candidate(
    candidate: Candidate,
    places: Mapping[str, int],
    rejection: Rejection | None,
    counted: Mapping[str, int],
    usage: Usage,
    pace: Pace,
) -> dict[str, Any]:
    upstream = candidate.upstream
    tokens = counted.get(upstream.name, usage.prompt_tokens)
    own = Usage(prompt_tokens=tokens, completion_tokens=usage.completion_tokens, estimated=True)
    between = pace(upstream.name)
    first = candidate.ttft_s
    whole = None
    if first is not None and between is not None:
        whole = (candidate.wait_s or 0.0) + first + between * max(0, own.completion_tokens - 1)
    place = places.get(upstream.name)
    return {
        "upstream": upstream.name,
        "tier": upstream.tier.value,
        "strategy": upstream.strategy,
        "zone": upstream.zone.label,
        "model": upstream.model,
        "place": None if place is None else place + 1,
        "removed_by": rejection.reason if rejection is not None and place is None else None,
        "why": rejection.detail if rejection is not None and place is None else None,
        "cost_usd": upstream.cost_of(own),
        "wait_ms": _ms(candidate.wait_s),
        "ttft_ms": _ms(first),
        "duration_ms": _ms(whole),
        "in_flight": candidate.in_flight,
        "healthy": candidate.healthy,
        "full": candidate.full,
    }


def _rules(rules: tuple[Rule, ...], facts: Facts, plan: Plan | None) -> list[dict[str, Any]]:
    """The rules that match, with what each wants. At most one of those with `use` decides: none for
    a pin, for an alias that does not ask rules, or where filters left nothing that it names.
    """
    found: list[dict[str, Any]] = []
    decided = None if plan is None else plan.route.rule
    for rule in rules:
        if not rule.when.matches(facts):
            continue
        entry: dict[str, Any] = {"rule": rule.name, "mode": rule.mode.value}
        if rule.use is not None:
            entry["use"] = rule.use
        if rule.use is not None or rule.decides:
            entry["decides"] = rule.name == decided
        if rule.locality is not None:
            entry["locality"] = rule.locality.label
        if rule.min_bits is not None:
            entry["min_bits"] = rule.min_bits
        if rule.exact:
            entry["exact"] = True
        found.append(entry)
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
