"""A conversation once kept in stays in, and another one is not touched by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chat import ChatRequest, Message
from gateway.core.errors import LocalUnavailable
from gateway.core.exchange import Caller
from gateway.core.routing import Tier, Zone
from gateway.explain import explain
from gateway.tightened import TTL_S, Tightened
from tests.fakes.harness import Harness, exchange, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream

STAY = {"x-tandem-zone": "machine"}
SAID = st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=3))


def messages(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))


def chat(said: list[tuple[str, str]]) -> ChatRequest:
    turns = tuple(Message(role=role, text=text) for role, text in said)
    return replace(exchange().request, messages=turns)


@given(st.lists(SAID, min_size=1, max_size=4), st.lists(SAID, max_size=4), st.lists(SAID))
def test_what_goes_on_with_it_is_kept_in(
    begun: list[tuple[str, str]], more: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """Whatever begins with the same messages and goes on; what does not begin so is not."""
    tightened, caller = Tightened(lambda: 0.0), Caller()
    tightened.note(chat(begun), caller, Zone.MACHINE)
    went_on = tightened.zone(chat([*begun, *more]), caller)
    assert went_on == (Zone.MACHINE if more else None)
    begins_so = other[: len(begun)] == begun and len(other) > len(begun)
    assert (tightened.zone(chat(other), caller) is not None) == begins_so
    assert tightened.zone(chat([*begun, *more]), Caller(key_id="another")) is None


def test_they_are_few_and_end() -> None:
    """The oldest go first, and after some hours a conversation is over."""
    now = [0.0]
    tightened, caller = Tightened(lambda: now[0], capacity=2), Caller()
    for text in "abc":
        tightened.note(chat([("user", text)]), caller, Zone.ORGANISATION)
    found = [tightened.zone(chat([("user", text), ("user", "x")]), caller) for text in "abc"]
    assert (len(tightened), found) == (2, [None, Zone.ORGANISATION, Zone.ORGANISATION])
    now[0] = TTL_S
    assert tightened.zone(chat([("user", "c"), ("user", "x")]), caller) is None


def test_a_forgotten_header_lets_nothing_out() -> None:
    """The second turn without the header stays here as the first did, also for a pin, and says why;
    a dry run is not remembered."""
    local = ScriptedBackend(
        upstream("local", zone=Zone.MACHINE, tier=Tier.LOCAL), lambda: saying("here")
    )
    cloud = ScriptedBackend(upstream("cloud"), lambda: saying("there"))
    harness = Harness([cloud, local])
    planner = harness.pipeline.planner
    tightened = Tightened(lambda: harness.now)
    planner.rulebook = replace(planner.rulebook, tightened=tightened)
    second = messages("my diagnosis is", "I see", "and now?")

    async def story() -> None:
        await harness.fleet.look()
        await explain(planner, exchange(messages=second[:1], headers=STAY))
        assert len(tightened) == 0
        assert await harness.answer(messages=second[:1]) == "there"
        assert len(tightened) == 0
        assert await harness.answer(messages=second[:1], headers=STAY) == "here"
        assert await harness.answer(messages=second) == "here"
        with pytest.raises(LocalUnavailable):
            await harness.answer("cloud", messages=second)
        told = await explain(planner, exchange(messages=second))
        (zone,) = [each for each in told["phases"] if each["phase"] == "zone"]
        by = {each["by"]: each["zone"] for each in zone["said"]}
        assert by["an earlier turn of this conversation"] == "machine"
        assert await harness.answer(messages=messages("something else", "ok", "x")) == "there"

    run(story())
    assert len(cloud.calls) == 2
