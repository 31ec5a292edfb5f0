"""A switch in the middle of a conversation must be worth the prefix that it loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routing import Candidate, Facts, Route, Tier, Upstream, Zone
from router_policies.base import Settings
from router_policies.chain import Chain
from router_policies.rules import RulesPolicy, compile_rules
from router_policies.sticky import MARGIN, StickyPolicy, warm_share

LONG = {"prompt_bytes": 1000, "last_user_bytes": 0}


def candidate(name: str, **state: Any) -> Candidate:
    upstream = Upstream(name=name, kind="x", tier=Tier.CLOUD, zone=Zone.PUBLIC, model=name)
    return Candidate(upstream=upstream, **state)


class Ranking:
    """A policy that orders by worths that it is told."""

    name = "ranking"

    def __init__(self, worth: dict[str, float]) -> None:
        self._worth = worth

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        order = sorted(candidates, key=lambda each: -self._worth.get(each.upstream.name, 0.0))
        return Route(candidates=tuple(order), reason="learned", worth=self._worth)


def routed(worth: dict[str, float], facts: Facts, *candidates: Candidate) -> tuple[str, str]:
    chain = Chain([Ranking(worth), StickyPolicy(Settings())])
    route = chain.choose(facts, candidates)
    assert sorted(c.upstream.name for c in route.candidates) == sorted(
        c.upstream.name for c in candidates
    )
    return route.candidates[0].upstream.name, route.reason


@pytest.mark.parametrize(
    ("gain", "newest", "goes"),
    [
        (MARGIN * 0.9, 0, "a"),
        (MARGIN * 1.1, 0, "b"),
        (MARGIN * 0.45, 500, "a"),
        (MARGIN * 0.55, 500, "b"),
        (0.001, 1000, "b"),
    ],
)
def test_a_switch_pays_for_the_lost_prefix(gain: float, newest: int, goes: str) -> None:
    """It must gain more than the margin, less where little of the prompt was read before."""
    facts = {"sticky": "a", "prompt_bytes": 1000, "last_user_bytes": newest}
    worth = {"a": 0.5, "b": 0.5 + gain}
    reason = "sticky" if goes == "a" else "learned"
    assert routed(worth, facts, candidate("a"), candidate("b")) == (goes, reason)


@pytest.mark.parametrize("state", [{"healthy": False}, {"full": True}])
def test_what_is_down_or_full_is_left(state: dict[str, bool]) -> None:
    """No conversation waits for an upstream for its prefix's sake."""
    facts = {"sticky": "a", **LONG}
    assert routed({"a": 0.5, "b": 0.51}, facts, candidate("a", **state), candidate("b"))[0] == "b"


@pytest.mark.parametrize("facts", [LONG, {"sticky": "gone", **LONG}, {"sticky": "b", **LONG}])
def test_without_a_last_turn_nothing_changes(facts: dict[str, Any]) -> None:
    """A new conversation, one whose upstream was removed, one that is there already."""
    found = routed({"a": 0.5, "b": 0.51}, facts, candidate("a"), candidate("b"))
    assert found == ("b", "learned")


def test_an_order_without_measure_stands() -> None:
    """What the operator wrote, as a rule or as an order, is not overruled by where a turn went."""
    flaws: list[Any] = []
    rules = compile_rules([{"name": "r", "use": "b"}], (), ("a", "b"), flaws)
    for policies in ([], [RulesPolicy(Settings(rules=rules))]):
        chain = Chain([*policies, StickyPolicy(Settings())])
        facts = {"sticky": "a" if policies else "b", **LONG}
        route = chain.choose(facts, [candidate("a"), candidate("b")])
        assert route.candidates[0].upstream.name == ("b" if policies else "a")


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_warm_share_is_a_share(whole: int, newest: int) -> None:
    """Between nothing and all, whatever the facts say."""
    assert 0.0 <= warm_share({"prompt_bytes": whole, "last_user_bytes": newest}) <= 1.0
