"""What a draft tells of itself: signals, faults, calibration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.evidence import FLOOR, NAMES, Calibration, Evidence, circles, normal
from gateway.core.chat import ChatRequest, Feature, TokenLogprob
from gateway.core.events import Finish, TextDelta, ToolCallDelta
from tests.fakes.harness import exchange

ASKED: ChatRequest = exchange().request
JSON = replace(
    ASKED,
    features=ASKED.features | {Feature.JSON_MODE},
    body={"response_format": {"type": "json_object"}},
)


def token(*probabilities: float) -> TokenLogprob:
    """The likeliest first; it is the one that was said."""
    top = tuple(TokenLogprob(data=b"x", logprob=math.log(p)) for p in probabilities)
    return TokenLogprob(data=b"x", logprob=math.log(probabilities[0]), top=top)


def evidence(text: str, *tokens: TokenLogprob, asked: ChatRequest = ASKED) -> Evidence:
    found = Evidence(asked)
    found.note(TextDelta(text=text, logprobs=tokens))
    found.note(Finish(reason="stop"))
    return found


def test_signals_are_those_of_the_tokens() -> None:
    """Margin and entropy of one sure and one unsure token, computed by hand."""
    signals = evidence("ab", token(0.9, 0.05), token(0.5, 0.4)).signals()
    assert signals["first_margin"] == pytest.approx(0.85)
    assert signals["least_margin"] == pytest.approx(0.1)
    assert signals["mean_logprob"] == pytest.approx((math.log(0.9) + math.log(0.5)) / 2)
    assert signals["most_entropy"] == pytest.approx(-0.5 * math.log(0.5) - 0.4 * math.log(0.4))
    assert set(signals) == set(NAMES)


def test_a_draft_that_tells_nothing_is_doubted() -> None:
    """Without judged tokens the signals are those of the least sure draft there is."""
    silent, sure = evidence("yes").signals(), evidence("yes", token(0.99, 0.01)).signals()
    assert silent["least_margin"] < sure["least_margin"]
    assert silent["least_logprob"] == FLOOR


@pytest.mark.parametrize(
    ("text", "asked", "fault"),
    [
        ("Paris.", ASKED, None),
        ("", ASKED, "empty"),
        ("I'm sorry, but I cannot help with that.", ASKED, "refusal"),
        ("I don't know.", ASKED, "refusal"),
        ("I know that I don't know everything, but: 4.", ASKED, None),
        ("the ball was happy. " * 8, ASKED, "loop"),
        ("x" * 100, ASKED, "loop"),
        ("-" * 40, ASKED, None),
        ('{"a": 1}', JSON, None),
        ('{"a": ', JSON, "form"),
    ],
)
def test_faults(text: str, asked: ChatRequest, fault: str | None) -> None:
    """What is wrong whatever the model was sure of, and what is not."""
    assert evidence(text, token(0.99), asked=asked).fault() == fault


def test_a_call_whose_arguments_do_not_parse_is_a_fault() -> None:
    """Arguments that are no JSON are wrong; with those that are, there need be no text."""
    for arguments, fault in (('{"city": "Rome"}', None), ('{"city": ', "form"), ("", None)):
        found = Evidence(ASKED)
        found.note(ToolCallDelta(index=0, id="1", name="weather", arguments=""))
        found.note(ToolCallDelta(index=0, arguments=arguments))
        found.note(Finish(reason="tool_calls"))
        assert found.fault() == fault


def test_answers_are_compared_by_what_they_say() -> None:
    """JSON by value, text without case and space; calls by name and arguments."""
    assert normal('{"a": 1, "b": 2}', []) == normal('{"b":2,"a":1}', [])
    assert normal(" Paris \n", []) == normal("paris", [])
    assert normal("", ["f", '{"a": 1}']) == normal("", ["f", '{ "a":1 }'])
    assert normal("Paris", []) != normal("Rome", [])


def test_a_second_opinion_counts_both_ways() -> None:
    """Agreement and disagreement are two signals; without a second there is neither."""
    alone = evidence("Paris")
    assert (alone.signals()["agrees"], alone.signals()["differs"]) == (0, 0)
    for other, agrees in ((normal("paris", []), 1), (normal("Rome", []), 0)):
        found = evidence("Paris")
        found.second_opinion(other)
        assert (found.signals()["agrees"], found.signals()["differs"]) == (agrees, 1 - agrees)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(-1e6, 1e6), max_size=len(NAMES)),
    st.floats(-1e6, 1e6),
)
def test_a_calibration_is_a_probability(weights: dict[str, float], bias: float) -> None:
    """Whatever its weights, and never an overflow."""
    signals = evidence("ab", token(0.9, 0.05)).signals()
    assert 0 <= Calibration(weights, bias).probability(signals) <= 1


def test_a_calibration_of_unknown_signals_is_refused() -> None:
    """A misspelt weight would otherwise silently weigh nothing."""
    with pytest.raises(ValueError, match="least_margni"):
        Calibration({"least_margni": 1.0})


@given(st.text("ab \n", min_size=1, max_size=20), st.integers(1, 40))
def test_circles_are_repeated_ends(cycle: str, times: int) -> None:
    """A cycle repeated often enough is seen; a text that is shorter than four cycles is not."""
    text = "once upon a time " + cycle * times
    if len(cycle) * times >= 200:
        assert circles(text)
    assert not circles("abcdefghijklm" * 3)
