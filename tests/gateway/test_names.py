"""Model names: what they stand for, and what is said of those that a key may not use."""

from __future__ import annotations

import pytest

from gateway.core.errors import NotFound
from gateway.core.exchange import Caller
from gateway.names import resolve

ANYONE = Caller()


class Entry:
    def __init__(self, *candidates: str) -> None:
        self.candidates = candidates


ALIASES = {"auto": Entry("a", "b"), "local": Entry("a")}


def test_a_name_is_an_alias_or_a_pin() -> None:
    """An alias brings its upstreams in order; an upstream's own name brings itself alone."""
    assert resolve("auto", ALIASES, {"a", "b"}, ANYONE) == ("auto", ("a", "b"))
    assert resolve("b", ALIASES, {"a", "b"}, ANYONE) == (None, ("b",))


def test_unknown_and_forbidden_look_the_same() -> None:
    """OpenAI's words and code, whether the model is not there or not the key's."""
    limited = Caller(models=frozenset({"local"}))
    told = []
    for name, caller in [("auto", limited), ("a", limited), ("nothing-like-it", ANYONE)]:
        with pytest.raises(NotFound) as caught:
            resolve(name, ALIASES, {"a", "b"}, caller)
        error = caught.value
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        told.append(error.message.replace(f"`{name}`", "`NAME`"))
    assert len(set(told)) == 1
    assert "does not exist or you do not have access to it" in told[0]


def test_a_misspelt_model_gets_a_hint_of_ones_own() -> None:
    """The likely name is offered, but never one that the key may not use."""
    with pytest.raises(NotFound, match="Did you mean 'local'"):
        resolve("lcoal", ALIASES, set(), ANYONE)
    with pytest.raises(NotFound) as caught:
        resolve("lcoal", ALIASES, set(), Caller(models=frozenset({"auto"})))
    assert "local'" not in caught.value.message
