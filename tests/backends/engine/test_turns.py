"""The predicted wait for a slot: nothing where one is free, and longer the more are before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.turns import Turns
from tests.fakes.clock import FakeClock


def test_a_free_slot_is_no_wait() -> None:
    """Also where earlier turns took long, and as long as nobody knows how long they take."""
    clock = FakeClock()
    turns = Turns(2, clock)
    for id in range(5):
        turns.began(id)
    assert turns.wait_s == 0.0, "nobody knows yet"
    clock.advance(4.0)
    for id in range(5):
        turns.ended(id)
    assert turns.usual_s is not None
    turns.began(9)
    assert turns.wait_s == 0.0


def test_who_comes_waits_for_those_before() -> None:
    """The rest of a running turn, and a whole one for each round of the queue."""
    clock = FakeClock()
    turns = Turns(1, clock)
    turns.began(0)
    clock.advance(10.0)
    turns.ended(0)
    turns.began(1)
    assert turns.wait_s == pytest.approx(10.0)
    clock.advance(4.0)
    assert turns.wait_s == pytest.approx(6.0)
    turns.began(2)
    assert turns.wait_s == pytest.approx(16.0)
    clock.advance(100.0)
    assert turns.wait_s == pytest.approx(11.0), "a late one is nearly there"
    turns.ended(2)
    assert turns.wait_s == pytest.approx(1.0), "who left the queue is not waited for"


def test_the_next_in_the_queue_has_its_turn_when_one_ends() -> None:
    """Its time begins then: it is not taken to have run while it waited."""
    clock = FakeClock()
    turns = Turns(1, clock)
    for id in range(2):
        turns.began(id)
    clock.advance(10.0)
    turns.ended(0)
    assert turns.wait_s == pytest.approx(10.0)
    clock.advance(10.0)
    turns.ended(1)
    assert turns.usual_s == pytest.approx(10.0)
    assert turns.wait_s == 0.0


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.floats(0, 5))))
def test_whatever_happens_it_is_a_time(slots: int, story: list[tuple[bool, int, float]]) -> None:
    """Never negative, 0 where a slot is free or no turn has ended, and nobody is left over."""
    clock = FakeClock()
    turns, inside = Turns(slots, clock), list[int]()
    for id, (comes, which, seconds) in enumerate(story):
        clock.advance(seconds)
        if comes:
            inside.append(id)
            turns.began(id)
        elif inside:
            turns.ended(inside.pop(which % len(inside)))
        assert turns.wait_s >= 0.0
        if len(inside) < slots or turns.usual_s is None:
            assert turns.wait_s == 0.0
    for id in inside:
        turns.ended(id)
    assert turns.wait_s == 0.0
