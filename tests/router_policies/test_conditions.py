"""Conditions: what matches, what is refused at load, and that nothing raises at a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.flaw import Flaw
from router_policies.base import Condition
from router_policies.conditions import ALL_OPERATORS, MAX_PATTERN, compile_condition
from router_policies.facts import FACTS


def compiled(raw: object) -> Condition:
    flaws: list[Flaw] = []
    condition = compile_condition(raw, (), flaws)
    assert flaws == []
    return condition


def flaws_of(raw: object) -> list[tuple[tuple[str | int, ...], str]]:
    flaws: list[Flaw] = []
    compile_condition(raw, (), flaws)
    return [(flaw.path, flaw.message) for flaw in flaws]


@pytest.mark.parametrize(
    ("raw", "facts", "expected"),
    [
        ({"model": "auto"}, {"model": "auto"}, True),
        ({"model": "auto"}, {"model": "Auto"}, False),
        ({"model": {"ne": "auto"}}, {"model": "local"}, True),
        ({"model": {"in": ["auto", "local"]}}, {"model": "local"}, True),
        ({"model": {"contains": "70b"}}, {"model": "groq-70b-x"}, True),
        ({"model": {"prefix": "auto:"}}, {"model": "auto"}, False),
        ({"model": {"glob": "gpt-*"}}, {"model": "gpt-4o\nmini"}, True),
        ({"model": {"glob": "gpt-4.?"}}, {"model": "gpt-401"}, False),
        ({"model": {"glob": "gpt"}}, {"model": "gpt-4"}, False),
        ({"model": {"regex": "[0-9]+b"}}, {"model": "llama-70b-x"}, True),
        ({"model": {"regex": "^70b"}}, {"model": "llama-70b"}, False),
        ({"prompt_tokens": {"gt": 10, "lte": 20}}, {"prompt_tokens": 20}, True),
        ({"prompt_tokens": {"gt": 10, "lte": 20}}, {"prompt_tokens": 21}, False),
        ({"prompt_tokens": {"gte": 10, "lt": 20}}, {"prompt_tokens": 10}, True),
        ({"temperature": 0}, {"temperature": 0.0}, True),
        ({"messages": {"in": [1, 2]}}, {"messages": 2}, True),
        ({"stream": True}, {"stream": True}, True),
        ({"stream": {"ne": True}}, {"stream": False}, True),
        ({"model": "a", "stream": True}, {"model": "a", "stream": False}, False),
        ({"any": [{"model": "a"}, {"stream": True}]}, {"model": "b", "stream": True}, True),
        ({"all": [{"model": "a"}, {"stream": True}]}, {"model": "b", "stream": True}, False),
        ({"not": {"model": "a"}, "stream": True}, {"model": "a", "stream": True}, False),
        ({"not": {"any": [{"model": "a"}]}}, {"model": "b"}, True),
    ],
)
def test_matching(raw: object, facts: dict[str, Any], expected: bool) -> None:
    """Each operator and combinator, side-by-side keys all holding."""
    assert compiled(raw).matches(facts) is expected


@pytest.mark.parametrize("operator", ["eq", "ne", "contains", "prefix", "glob", "regex"])
def test_a_missing_fact_is_no_match(operator: str) -> None:
    """Every comparison with a header that was not sent is false; `not` and `exists` see it."""
    comparison = {"header.x-team": {operator: "a"}}
    assert not compiled(comparison).matches({})
    assert compiled({"not": comparison}).matches({})
    assert compiled({"header.x-team": {"exists": False}}).matches({})
    assert not compiled({"header.x-team": {"exists": True}}).matches({})
    assert compiled({"header.x-team": {"exists": True}}).matches({"header.x-team": ""})


def test_header_names_have_no_case() -> None:
    """A rule may write a header as people do."""
    condition = compiled({"header.X-Team": "a"})
    assert condition.matches({"header.x-team": "a"})
    assert condition.names() == {"header.x-team"}


@pytest.mark.parametrize(
    ("raw", "path", "part"),
    [
        ({"promt_tokens": 1}, ("promt_tokens",), "did you mean 'prompt_tokens'"),
        ({"prompt_tokens": {"gtt": 1}}, ("prompt_tokens", "gtt"), "did you mean 'gt'"),
        ({"prompt_tokens": {"regex": "1"}}, ("prompt_tokens", "regex"), "does not apply"),
        ({"prompt_tokens": "many"}, ("prompt_tokens",), "compared with a number"),
        ({"prompt_tokens": True}, ("prompt_tokens",), "compared with a number"),
        ({"prompt_tokens": {"lt": float("nan")}}, ("prompt_tokens", "lt"), "a number"),
        ({"header.x-level": 3}, ("header.x-level",), 'write "3" in quotes'),
        ({"stream": "yes"}, ("stream",), "true or false"),
        ({"stream": {"exists": 1}}, ("stream", "exists"), "true or false"),
        ({"zone": "publik"}, ("zone",), "did you mean 'public'"),
        ({"endpoint": {"in": ["chat", "cat"]}}, ("endpoint", "in"), "'cat'"),
        ({"model": {"in": []}}, ("model", "in"), "at least one"),
        ({"model": {}}, ("model",), "expects a value"),
        ({"model": {"regex": "(a"}}, ("model", "regex"), "re2"),
        ({"model": {"regex": r"(a)\1"}}, ("model", "regex"), "re2"),
        ({"model": {"regex": "a" * (MAX_PATTERN + 1)}}, ("model", "regex"), "at most 512"),
        ({"all": []}, ("all",), "at least one"),
        ({"any": [{"model": "a"}, {"modell": "a"}]}, ("any", 1, "modell"), "'model'"),
        ({"not": []}, ("not",), "mapping"),
        ({}, (), "mapping"),
        ("model == 'a'", (), "mapping"),
        ({"header.authorization": "x"}, ("header.authorization",), "credential"),
        ({"header.": "x"}, ("header.",), "unknown fact"),
        ({"header.x team": "x"}, ("header.x team",), "unknown fact"),
        ({"header.x-team:": "x"}, ("header.x-team:",), "unknown fact"),
    ],
)
def test_a_mistake_is_found_at_load(raw: object, path: tuple[str | int, ...], part: str) -> None:
    """Typos, wrong types and bad patterns are flaws that say where and what."""
    found = flaws_of(raw)
    assert [where for where, _ in found] == [path]
    assert part in found[0][1]


def test_all_mistakes_are_found_at_once() -> None:
    """The second mistake is reported with the first."""
    assert len(flaws_of({"modl": 1, "not": {"stream": 3}, "any": [{"zone": 1}]})) == 3


def test_nesting_is_bounded() -> None:
    """A condition too deep to be meant is refused, not recursed into."""
    raw: dict[str, Any] = {"stream": True}
    for _ in range(3000):
        raw = {"not": raw}
    assert "deep" in flaws_of(raw)[0][1]


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy, and how fast examples come is not what is tested."""

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just("\ud800 half a pair"),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=2),
)
LITERALS = st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
OPERANDS = st.one_of(LITERALS, st.lists(LITERALS, max_size=3))
TESTS = st.dictionaries(
    st.sampled_from([*FACTS, "header.x-team"]),
    st.one_of(OPERANDS, st.dictionaries(st.sampled_from(ALL_OPERATORS), OPERANDS, max_size=3)),
    max_size=3,
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"all": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, max_size=3)}),
    ),
    max_leaves=6,
)
ANY_FACTS = st.dictionaries(st.sampled_from([*FACTS, "header.x-team"]), VALUES)


@patient
@given(raw=CONDITIONS, facts=ANY_FACTS)
def test_nothing_raises(raw: object, facts: dict[str, Any]) -> None:
    """Whatever a condition says and whatever the facts hold, matching answers true or false."""
    assert compile_condition(raw, (), []).matches(facts) in (True, False)


VALID = st.sampled_from(
    [
        {"model": {"regex": "a.c|^x"}},
        {"model": {"glob": "*a?"}},
        {"header.x-team": {"contains": "é"}},
        {"header.x-team": {"in": ["a", "b"]}},
        {"prompt_tokens": {"gt": 3, "lt": 2.5}},
        {"temperature": {"in": [0, 1]}},
        {"stream": True},
    ]
)


@patient
@given(raw=VALID, facts=ANY_FACTS)
def test_not_is_the_opposite(raw: object, facts: dict[str, Any]) -> None:
    """For facts of any type, a condition and its negation never agree."""
    assert compiled(raw).matches(facts) is not compiled({"not": raw}).matches(facts)
