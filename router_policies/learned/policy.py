"""The learned policy: ranks what remains by utility, or keeps a wanted share on the strong side.

It reads the router's facts (`facts.ROUTER_FACTS`), which whoever planned the request put there. It
leaves the request to the next policy where there are none, and, unless a share is kept, where the
prompt is too new to know anything about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.routing import Candidate, Facts, Route, Tier
from router_policies.base import Settings
from router_policies.learned.utility import worth


class LearnedPolicy:
    """`settings` say what its alias prefers (`weights`) and who can do what (`abilities`)."""

    name = "learned"

    def __init__(self, settings: Settings) -> None:
        self._weights = settings.weights
        self._abilities = settings.abilities
        self._limit = settings.novelty_limit
        self._unsure = settings.unsure

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        score = facts.get("router.score")
        if score is None:
            return None
        utility = {
            each.upstream.name: worth(each, facts, self._weights, self._abilities).utility
            for each in candidates
        }
        rank, cut = facts.get("router.rank"), facts.get("router.cut")
        capped = bool(facts.get("router.capped"))
        if rank is None or cut is None:
            if facts["router.novelty"] > self._limit:
                return None
            side: Callable[[Candidate], int] = _spare if capped else _same
        else:
            side = _sides(rank, cut, self._unsure, capped)

        def key(candidate: Candidate) -> tuple[bool, bool, int, float]:
            # What is down or full comes last, as in the static order.
            worth_it = utility[candidate.upstream.name]
            return not candidate.healthy, candidate.full, side(candidate), -worth_it

        order = tuple(sorted(candidates, key=key))
        # Where a share or a cap has its say, the order is not by worth, and nobody may go by it.
        said = utility if side is _same else {}
        return Route(candidates=order, reason="learned", score=score, worth=said)


def _same(candidate: Candidate) -> int:
    return 0


def _spare(candidate: Candidate) -> int:
    """What costs nothing remote first: no more may be spent this hour."""
    return int(candidate.upstream.tier is not Tier.LOCAL)


def _sides(rank: float, cut: float, middle: float, capped: bool) -> Callable[[Candidate], int]:
    strong = rank >= cut and not capped
    unsure = abs(rank - cut) <= middle and not capped

    def side(candidate: Candidate) -> int:
        if candidate.upstream.kind == "cascade":
            return 0 if unsure else 2
        return 1 if (candidate.upstream.tier is not Tier.LOCAL) == strong else 3

    return side
