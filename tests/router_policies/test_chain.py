"""The chain of policies, and the two that always answer."""

from __future__ import annotations

import pytest

from gateway.core.flaw import Flaw
from gateway.core.registry import UnknownName
from gateway.core.routing import Candidate, Tier, Upstream, Zone
from router_policies.base import Policy, Settings
from router_policies.chain import Chain, build
from router_policies.pin import PinPolicy
from router_policies.rules import compile_rules
from router_policies.static import StaticPolicy


def candidate(name: str, *, healthy: bool = True, in_flight: int = 0) -> Candidate:
    upstream = Upstream(name=name, kind="x", tier=Tier.LOCAL, zone=Zone.MACHINE, model=name)
    return Candidate(upstream=upstream, healthy=healthy, in_flight=in_flight)


def test_static_keeps_the_order() -> None:
    """The operator's order stands whatever the load; what is down goes to the end."""
    given = [candidate("a", healthy=False), candidate("b", in_flight=9), candidate("c")]
    route = StaticPolicy(Settings()).choose({}, given)
    assert route is not None
    assert [each.upstream.name for each in route.candidates] == ["b", "c", "a"]
    assert route.reason == "static"


def test_the_first_answer_decides() -> None:
    """Rules before static: a matching rule is the reason, else the order is."""
    flaws: list[Flaw] = []
    entry = {"name": "streams", "when": {"stream": True}, "use": "b"}
    rules = compile_rules([entry], (), ["a", "b"], flaws)
    assert flaws == []
    chain = build(["rules", "static"], Settings(rules=rules))
    given = [candidate("a"), candidate("b")]
    assert chain.choose({"stream": True}, given).reason == "rule"
    assert chain.choose({"stream": False}, given).reason == "static"


def test_a_chain_always_answers() -> None:
    """With no policy, or none that has an opinion, the given order stands."""
    given = [candidate("a"), candidate("b")]
    assert Chain([]).choose({}, given).candidates == tuple(given)
    assert build(["rules"], Settings()).choose({}, given).candidates == tuple(given)


def test_a_chain_is_a_policy() -> None:
    """So are chains of chains."""
    inner: Policy = Chain([PinPolicy()])
    assert Chain([inner]).choose({}, [candidate("a")]).reason == "pin"


def test_an_unknown_policy_is_named() -> None:
    """The error says which, and what there is."""
    with pytest.raises(UnknownName, match=r"'learnt'.*'learned'"):
        build(["learnt"], Settings())
