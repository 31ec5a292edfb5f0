"""Several policies asked in turn: what combines policies is a Policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.registry import load
from gateway.core.routing import Candidate, Facts, Route
from router_policies import POLICIES
from router_policies.base import Adjuster, Policy, Settings
from router_policies.static import StaticPolicy


class Chain:
    """The first policy that answers decides; if none does, the alias's own order stands.

    Policies behind it that adjust routes (base.py: Adjuster) then have their say in turn.
    """

    name = "chain"

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = (*policies, StaticPolicy(Settings()))
        self._adjusters = [
            [each for each in policies[place + 1 :] if isinstance(each, Adjuster)]
            for place in range(len(self._policies))
        ]

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route:
        """Never None. Raises ValueError if `candidates` is empty, against the contract."""
        for place, policy in enumerate(self._policies):
            route = policy.choose(facts, candidates)
            if route is not None and route.candidates:
                for adjuster in self._adjusters[place]:
                    route = adjuster.adjust(facts, route)
                return route
        raise ValueError("a policy chain was asked to choose among no candidates")


def build(names: Sequence[str], settings: Settings, table: Mapping[str, str] = POLICIES) -> Chain:
    """The policies of those names, in that order. Raises UnknownName for one not in the table."""
    return Chain([load(table, name, what="policy")(settings) for name in names])
