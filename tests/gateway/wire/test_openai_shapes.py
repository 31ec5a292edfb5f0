"""Sampling fields, read."""

from __future__ import annotations

import pytest

from gateway.core.chat import Feature
from gateway.core.errors import InvalidRequest
from gateway.wire import openai_shapes as shapes


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("typical_p", 2),
        ("repeat_penalty", 0),
        ("repetition_penalty", "x"),
        ("repeat_last_n", -2),
        ("dry_multiplier", -1),
        ("dry_base", 0.5),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": True}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("ignore_eos", 1),
        ("min_tokens", -1),
    ],
)
def test_a_wrong_value_is_named(param: str, value: object) -> None:
    """A value out of range or of another type is refused with the parameter's name."""
    with pytest.raises(InvalidRequest) as caught:
        shapes.sampling({param: value}, max_tokens=None)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("param", "value", "feature"),
    [
        ("typical_p", 0.5, Feature.TYPICAL_P),
        ("repeat_penalty", 1.1, Feature.REPEAT_PENALTY),
        ("repetition_penalty", 1.1, Feature.REPEAT_PENALTY),
        ("dry_multiplier", 0.8, Feature.DRY),
        ("logit_bias", {"5": -100}, Feature.LOGIT_BIAS),
        ("ignore_eos", True, Feature.IGNORE_EOS),
        ("min_tokens", 3, Feature.MIN_TOKENS),
    ],
)
def test_a_parameter_asks_for_its_feature(param: str, value: object, feature: Feature) -> None:
    """What an upstream may lack is a feature of the request; absent, it is none."""
    assert shapes.sampling({param: value}, max_tokens=None)[1] == {feature}
    assert shapes.sampling({param: None}, max_tokens=None)[1] == set()


def test_both_names_of_the_repeat_penalty() -> None:
    """llama.cpp's and vLLM's names mean one setting."""
    for name in ("repeat_penalty", "repetition_penalty"):
        assert shapes.sampling({name: 1.2}, max_tokens=None)[0].repeat_penalty == 1.2


def test_biases_are_pairs() -> None:
    """A logit bias maps token ids, which JSON has as text, to numbers."""
    settings, _ = shapes.sampling({"logit_bias": {"5": -100, "7": 1.5}}, max_tokens=None)
    assert settings.logit_bias == ((5, -100.0), (7, 1.5))
