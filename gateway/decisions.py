"""The last routing decisions, for operators: facts and who was removed by what, and no contents."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, NamedTuple

from gateway.core.exchange import Exchange
from gateway.explain import shown
from gateway.plan import Plan

CAPACITY = 1000


class _Decision(NamedTuple):
    id: str
    created: float
    found: tuple[str, ...]
    plan: Plan


class Decisions:
    """The last `capacity` of them. To note one is to keep a reference; it is told when asked."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._last: deque[_Decision] = deque(maxlen=capacity)

    def note(self, exchange: Exchange, plan: Plan, now: float) -> None:
        self._last.append(_Decision(exchange.id, now, exchange.found, plan))

    def latest(self, count: int, key_id: str | None = None) -> list[dict[str, Any]]:
        """So many, the newest first; with a `key_id` only those of that key."""
        kept = (d for d in reversed(self._last) if key_id in (None, d.plan.facts["key_id"]))
        return [_told(each) for each in islice(kept, count)]


def _told(decision: _Decision) -> dict[str, Any]:
    plan = decision.plan
    return {
        "id": decision.id,
        "created": decision.created,
        "zone": plan.zone.label,
        "found": list(decision.found),
        "reason": plan.route.reason,
        "rule": plan.route.rule,
        "score": plan.route.score,
        "order": [each.upstream.name for each in plan.route.candidates],
        "removed": [{"upstream": each.upstream, "by": each.reason} for each in plan.route.rejected],
        "facts": shown(plan.facts),
    }
