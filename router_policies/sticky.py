"""A conversation stays where its prefix is warm, unless another upstream is worth the switch.

It chooses nobody. It looks at the route of a policy before it that told what each candidate is
worth (`Route.worth`), and moves the upstream of the last turn to the front, if what a switch would
gain is less than what it loses: `MARGIN` for a prompt that was read there entirely, less for one
whose newest turn is most of it. What is down or full is left; so is a route without worths, for
then nobody can say what the switch gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.core.routing import Candidate, Facts, Route
from router_policies.base import Settings
from router_policies.facts import STICKY

MARGIN = 0.05
"""Quality, as a chance from 0 to 1 (router.md: vLLM-SR's margin for the same)."""


class StickyPolicy:
    """Put behind the policy whose choices it steadies: `policy: [rules, learned, sticky]`."""

    name = "sticky"

    def __init__(self, settings: Settings) -> None:
        pass

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        return None

    def adjust(self, facts: Facts, route: Route) -> Route:
        """The route with the last turn's upstream first, or as it was."""
        last = facts.get(STICKY)
        first = route.candidates[0].upstream.name
        stay = next((each for each in route.candidates if each.upstream.name == last), None)
        if stay is None or last == first or not stay.healthy or stay.full:
            return route
        if first not in route.worth or stay.upstream.name not in route.worth:
            return route
        gain = route.worth[first] - route.worth[stay.upstream.name]
        if gain > MARGIN * warm_share(facts):
            return route
        rest = tuple(each for each in route.candidates if each is not stay)
        return replace(route, candidates=(stay, *rest), reason="sticky")


def warm_share(facts: Facts) -> float:
    """The part of the prompt that the last turn's upstream has read: all but the newest turn."""
    whole = facts.get("prompt_bytes", 0)
    return 1.0 - min(1.0, facts.get("last_user_bytes", 0) / whole) if whole else 0.0
