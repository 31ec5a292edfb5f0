"""The contract of a policy: one suite, run on every entry of POLICIES."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.flaw import Flaw
from gateway.core.registry import load
from gateway.core.routing import Candidate, Tier, Upstream, Zone
from router_policies import POLICIES
from router_policies.base import Policy, Settings
from router_policies.facts import FACTS
from router_policies.rules import compile_rules

NAMES = ("a", "b", "c", "d")
REASONS = {"rule", "static", "learned", "sticky"}
ENTRIES = [
    {"name": "one", "when": {"stream": True}, "use": "c"},
    {"name": "two", "when": {"prompt_tokens": {"gt": 10}}, "use": "pair"},
    {"name": "three", "when": {"tenant": "web"}, "use": "d", "fallback": False},
]


def policy_named(name: str) -> Policy:
    flaws: list[Flaw] = []
    rules = compile_rules(ENTRIES, (), (*NAMES, "pair"), flaws)
    assert flaws == []
    settings = Settings(rules=rules, aliases={"pair": ("d", "a")})
    policy: Policy = load(POLICIES, name, what="policy")(settings)
    return policy


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLAIN_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "prompt_tokens": st.integers(0, 20),
        "tenant": st.sampled_from(["web", "default"]),
        "model": st.text(max_size=4),
    },
)
# What an assessor adds comes together or not at all; rank and cut only where a share is kept.
ROUTED = st.fixed_dictionaries(
    {
        "router.score": st.floats(-1, 1),
        "router.weak_ok": st.floats(0, 1),
        "router.strong_ok": st.floats(0, 1),
        "router.novelty": st.floats(0, 1),
    },
    optional={"router.capped": st.booleans()},
)
SHARED = st.fixed_dictionaries({"router.rank": st.floats(0, 1), "router.cut": st.floats(-1, 2)})
FACT_VALUES = st.one_of(
    PLAIN_FACTS,
    st.builds(lambda a, b: {**a, **b}, PLAIN_FACTS, ROUTED),
    st.builds(lambda a, b, c: {**a, **b, **c}, PLAIN_FACTS, ROUTED, SHARED),
)
CANDIDATES = st.lists(
    st.builds(
        lambda name, tier, healthy, load: Candidate(
            upstream=Upstream(name=name, kind="x", tier=tier, zone=Zone.PUBLIC, model=name),
            healthy=healthy,
            in_flight=load,
        ),
        st.sampled_from(NAMES),
        st.sampled_from([Tier.LOCAL, Tier.CLOUD, Tier.SPECULATIVE]),
        st.booleans(),
        st.integers(0, 3),
    ),
    min_size=1,
    unique_by=lambda candidate: candidate.upstream.name,
)


@pytest.mark.parametrize("name", sorted(POLICIES))
@patient
@given(facts=FACT_VALUES, candidates=CANDIDATES)
def test_a_policy_only_orders(
    name: str, facts: Mapping[str, Any], candidates: list[Candidate]
) -> None:
    """A route holds at least one of the candidates, none twice, and none that was not given."""
    route = policy_named(name).choose(facts, candidates)
    if route is None:
        return
    chosen = [candidate.upstream.name for candidate in route.candidates]
    assert chosen
    assert len(set(chosen)) == len(chosen)
    assert all(candidate in candidates for candidate in route.candidates)
    assert route.reason in REASONS


@pytest.mark.parametrize("name", sorted(POLICIES))
@patient
@given(facts=FACT_VALUES, candidates=CANDIDATES)
def test_a_policy_is_pure(name: str, facts: dict[str, Any], candidates: list[Candidate]) -> None:
    """The same question gets the same answer, and nothing given is changed."""
    policy = policy_named(name)
    before = copy.deepcopy((facts, candidates))
    first = policy.choose(facts, candidates)
    policy.choose(dict.fromkeys(FACTS), candidates[:1])
    assert policy.choose(facts, candidates) == first
    assert (facts, candidates) == before


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_says_its_name(name: str) -> None:
    """It is the name that it is configured by."""
    policy = policy_named(name)
    assert isinstance(policy, Policy)
    assert policy.name == name
