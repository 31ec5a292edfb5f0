"""The order that the operator wrote: the policy that always has an answer."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.routing import Candidate, Facts, Route
from router_policies.base import Settings


class StaticPolicy:
    """The alias's own order, those that are up first, and of these those that are not full."""

    name = "static"

    def __init__(self, settings: Settings) -> None:
        pass

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route:
        ordered = sorted(candidates, key=lambda c: (not c.healthy, c.full))
        return Route(candidates=tuple(ordered), reason="static")
