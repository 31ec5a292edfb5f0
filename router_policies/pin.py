"""A request that names its upstream: nothing to choose, and the reason says so."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.routing import Candidate, Facts, Route


class PinPolicy:
    """Not in `POLICIES`: the pipeline uses it when a client asks for an upstream by its name."""

    name = "pin"

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        return Route(candidates=tuple(candidates), reason="pin")
