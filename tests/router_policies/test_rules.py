"""Rules: the first `use:` decides, all `locality:` tighten, and a filter's word stands."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.flaw import Flaw
from gateway.core.routing import Candidate, Tier, Upstream, Zone
from router_policies.base import Rule, Settings
from router_policies.rules import (
    RulesPolicy,
    compile_rules,
    first_use,
    header_names,
    locality,
    min_bits,
    observed,
    reach,
)

NAMES = ("small", "big", "box", "far", "cloud")
ALIASES = {"cloud": ("far", "big")}


def candidate(name: str) -> Candidate:
    return Candidate(
        upstream=Upstream(name=name, kind="x", tier=Tier.CLOUD, zone=Zone.PUBLIC, model=name)
    )


def rules(*entries: dict[str, Any]) -> tuple[Rule, ...]:
    flaws: list[Flaw] = []
    compiled = compile_rules(list(entries), ("rules",), NAMES, flaws)
    assert flaws == []
    return compiled


def chosen(listed: tuple[Rule, ...], facts: dict[str, Any], *names: str) -> list[str] | None:
    policy = RulesPolicy(Settings(rules=listed, aliases=ALIASES))
    route = policy.choose(facts, [candidate(name) for name in names])
    return route and [each.upstream.name for each in route.candidates]


def test_first_match_wins() -> None:
    """Of two matching `use:` rules the upper one decides, and its name is in the route."""
    listed = rules(
        {"name": "no", "when": {"stream": True}, "use": "far"},
        {"name": "first", "when": {"stream": False}, "use": "big"},
        {"name": "second", "use": "box"},
    )
    route = RulesPolicy(Settings(rules=listed)).choose(
        {"stream": False}, [candidate("small"), candidate("box"), candidate("big")]
    )
    assert route is not None
    assert [each.upstream.name for each in route.candidates] == ["big", "small", "box"]
    assert (route.reason, route.rule) == ("rule", "first")


def test_an_alias_stands_for_its_own_in_order() -> None:
    """`use: cloud` puts the alias's upstreams first, in the alias's order."""
    listed = rules({"name": "r", "use": "cloud"})
    assert chosen(listed, {}, "big", "small", "far") == ["far", "big", "small"]


def test_a_removed_target_leaves_the_request_to_the_next_policy() -> None:
    """With its upstream filtered out, the rule says nothing, and later rules are not asked."""
    listed = rules({"name": "r", "use": "big"}, {"name": "s", "use": "box"})
    assert chosen(listed, {}, "small", "box") is None


def test_no_rule_no_opinion() -> None:
    """Without a match the next policy decides."""
    listed = rules({"name": "r", "when": {"stream": True}, "use": "big"})
    assert chosen(listed, {"stream": False}, "big") is None


def test_without_fallback_only_the_target_serves() -> None:
    """`fallback: false` leaves nothing else, neither in reach nor in the route."""
    listed = rules({"name": "r", "use": "big", "fallback": False})
    assert chosen(listed, {}, "small", "big") == ["big"]
    assert reach(listed, ALIASES, {}, ("small", "box")) == ("big",)


def test_reach_adds_what_the_alias_does_not_list() -> None:
    """A rule's upstream joins the alias's candidates behind them, once."""
    listed = rules({"name": "r", "when": {"stream": True}, "use": "cloud"})
    assert reach(listed, ALIASES, {"stream": True}, ("small", "big")) == ("small", "big", "far")
    assert reach(listed, ALIASES, {"stream": False}, ("small", "big")) == ("small", "big")


def test_localities_all_apply_and_the_tightest_wins() -> None:
    """Order does not matter, and a `use:` rule above does not hide a `locality:` below."""
    listed = rules(
        {"name": "route", "use": "big"},
        {"name": "org", "locality": "organisation"},
        {"name": "machine", "when": {"header.x-team": "radiology"}, "locality": "machine"},
        {"name": "wide", "locality": "public"},
    )
    assert locality(listed, {"header.x-team": "radiology"}) is Zone.MACHINE
    assert locality(listed, {}) is Zone.ORGANISATION
    assert locality(listed[:1], {}) is None


def test_a_locality_alone_does_not_route() -> None:
    """`first_use` passes over rules that only tighten."""
    listed = rules({"name": "a", "locality": "machine"}, {"name": "b", "use": "big"})
    found = first_use(listed, {})
    assert found is not None
    assert found.name == "b"


def test_headers_that_rules_look_at() -> None:
    """They are gathered from all rules, nested ones too, in lower case."""
    listed = rules(
        {"name": "a", "when": {"not": {"any": [{"header.X-One": "1"}]}}, "use": "big"},
        {"name": "b", "when": {"header.x-two": {"exists": True}}, "locality": "machine"},
        {"name": "c", "use": "big"},
    )
    assert header_names(listed) == {"x-one", "x-two"}


@pytest.mark.parametrize(
    ("entry", "path", "part"),
    [
        ({"name": "r", "use": "bigg"}, ("rules", 0, "use"), "did you mean 'big'"),
        ({"name": "r", "use": 3}, ("rules", 0, "use"), "name of an upstream"),
        ({"name": "r", "locality": "local"}, ("rules", 0, "locality"), "is not a zone"),
        ({"name": "r", "user": "big"}, ("rules", 0, "user"), "did you mean 'use'"),
        ({"name": "r x", "use": "big"}, ("rules", 0, "name"), "needs a name"),
        ({"use": "big"}, ("rules", 0, "name"), "needs a name"),
        ({"name": "r"}, ("rules", 0), "none of them"),
        ({"name": "r", "use": "big", "fallback": "no"}, ("rules", 0, "fallback"), "true or false"),
        ({"name": "r", "locality": "machine", "fallback": True}, ("rules", 0, "fallback"), "use:"),
        ("use big", ("rules", 0), "mapping"),
        ({"name": "r", "use": "big", "when": None}, ("rules", 0, "when"), "mapping"),
    ],
)
def test_a_mistake_says_where(entry: object, path: tuple[str | int, ...], part: str) -> None:
    """Each flaw has the path to correct and names what is known."""
    flaws: list[Flaw] = []
    compile_rules([entry], ("rules",), NAMES, flaws)
    assert path in [flaw.path for flaw in flaws]
    assert any(part in flaw.message for flaw in flaws)


def test_names_are_unique() -> None:
    """Two rules of one name could not be told apart in a header or a metric."""
    flaws: list[Flaw] = []
    entry = {"name": "r", "use": "big"}
    compile_rules([entry, entry], ("rules",), NAMES, flaws)
    assert [flaw.path for flaw in flaws] == [("rules", 1, "name")]


def test_every_matching_rule_may_demand_bits_and_the_most_counts() -> None:
    """Like zones: not only the first match, and a rule may say nothing else."""
    flaws: list[Flaw] = []
    raw = [
        {"name": "a", "when": {"tenant": "lab"}, "min_bits": 6},
        {"name": "b", "min_bits": 4.5},
        {"name": "c", "when": {"tenant": "other"}, "min_bits": 16},
    ]
    rules = compile_rules(raw, ("rules",), (), flaws)
    assert not flaws
    assert min_bits(rules, {"tenant": "lab"}) == 6
    assert min_bits(rules, {"tenant": "x"}) == 4.5
    assert min_bits((), {}) is None


def test_bits_that_are_no_number_are_refused() -> None:
    """With the place of what is wrong."""
    for bad in (True, "8", -1, 65, None):
        flaws: list[Flaw] = []
        compile_rules([{"name": "a", "min_bits": bad}], ("rules",), (), flaws)
        assert [flaw.path for flaw in flaws] == [("rules", 0, "min_bits")]


WHO = {"key_id": "5f0c6a1d", "tenant": "web", "stream": False}


def test_a_keys_rules_come_before_a_teams_before_all_others() -> None:
    """Scope decides first, then priority, then place; a scope is a condition as well."""
    listed = rules(
        {"name": "all-late", "use": "small"},
        {"name": "all-early", "priority": -1, "use": "big"},
        {"name": "team", "team": "web", "priority": 9, "use": "box"},
        {"name": "key-late", "key": "5f0c6a1d", "priority": 2, "use": "far"},
        {"name": "key-early", "key": "5f0c6a1d", "priority": 1, "use": "cloud"},
    )
    order = ["key-early", "key-late", "team", "all-early", "all-late"]
    assert [rule.name for rule in listed] == order
    for facts, name in (
        (WHO, "key-early"),
        ({**WHO, "key_id": "00000000"}, "team"),
        ({**WHO, "key_id": "", "tenant": "other"}, "all-early"),
    ):
        rule = first_use(listed, facts)
        assert rule is not None and rule.name == name


def test_a_scope_and_a_condition_must_both_hold() -> None:
    """`team:` beside `when:` narrows it, also for `locality:`, which all are asked about."""
    listed = rules(
        {"name": "t", "team": "web", "when": {"stream": True}, "locality": "machine"},
        {"name": "u", "team": "web", "locality": "organisation"},
    )
    assert locality(listed, WHO) == Zone.ORGANISATION
    assert locality(listed, {**WHO, "stream": True}) == Zone.MACHINE
    assert locality(listed, {**WHO, "tenant": "x", "stream": True}) is None


def test_a_rule_that_observes_decides_nothing() -> None:
    """It is passed over, adds nobody to the candidates, and is named."""
    listed = rules({"name": "look", "use": "box", "mode": "observe"}, {"name": "do", "use": "big"})
    assert chosen(listed, WHO, "small", "big") == ["big", "small"]
    assert reach(listed, ALIASES, WHO, ("small",)) == ("small", "big")
    assert observed(listed, WHO) == ("look",)


def test_a_rule_that_bypasses_learning_leaves_the_aliass_own_order() -> None:
    """Without `use:` it decides that nobody behind the rules is asked; with it, as any other."""
    listed = rules(
        {"name": "plain", "when": {"stream": False}, "mode": "bypass_learning"},
        {"name": "never", "use": "big"},
    )
    assert chosen(listed, WHO, "small", "big") == ["small", "big"]
    assert reach(listed, ALIASES, WHO, ("small",)) == ("small",)
    assert chosen(listed, {**WHO, "stream": True}, "small", "big") == ["big", "small"]


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ({"use": "big", "mode": "obsrve"}, ("mode",), "did you mean 'observe'?"),
        ({"locality": "machine", "mode": "observe"}, ("mode",), "cannot only look on"),
        ({"min_bits": 8, "mode": "observe"}, ("mode",), "cannot only look on"),
        ({"use": "big", "key": "tdm-secret"}, ("key",), "first 8 hex digits"),
        ({"use": "big", "team": ["a"]}, ("team",), "a tenant's name"),
        ({"use": "big", "priority": 1.5}, ("priority",), "whole number"),
        ({"use": "big", "priority": True}, ("priority",), "whole number"),
        ({"mode": "enforce"}, (), "this one none of them"),
    ],
)
def test_scopes_and_modes_that_cannot_be(
    entry: dict[str, Any], path: tuple[str, ...], message: str
) -> None:
    """Each mistake is told at its key."""
    flaws: list[Flaw] = []
    compile_rules([{"name": "r", **entry}], ("rules",), NAMES, flaws)
    assert [(flaw.path, message in flaw.message) for flaw in flaws] == [(("rules", 0, *path), True)]
