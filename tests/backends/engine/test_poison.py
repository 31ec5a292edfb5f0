"""Prompts that workers died over."""

from __future__ import annotations

from backends.engine.poison import FORGET_S, KEPT, PoisonList
from tests.fakes.clock import FakeClock

BAD, GOOD = (1, 2, 3), (1, 2, 4)


def test_the_second_death_makes_a_prompt_refused() -> None:
    """Once may be bad luck; another prompt is not concerned."""
    listed = PoisonList(FakeClock())
    listed.blame([BAD])
    assert not listed.refuses(BAD)
    listed.blame([BAD, GOOD])
    assert listed.refuses(BAD)
    assert not listed.refuses(GOOD)


def test_the_choices_of_one_request_are_one_death() -> None:
    """A prompt that was in the batch four times has been in one death."""
    listed = PoisonList(FakeClock())
    listed.blame([BAD] * 4)
    assert not listed.refuses(BAD)


def test_it_is_forgotten_after_a_while() -> None:
    """Counted from the last death; afterwards it may be tried, and must die twice again."""
    clock = FakeClock()
    listed = PoisonList(clock)
    listed.blame([BAD])
    clock.advance(FORGET_S / 2)
    listed.blame([BAD])
    clock.advance(FORGET_S - 1)
    assert 0 < listed.refuses(BAD) <= 1
    clock.advance(1)
    assert not listed.refuses(BAD)
    listed.blame([BAD])
    assert not listed.refuses(BAD)


def test_an_answer_clears_a_neighbour() -> None:
    """Who was in the batch by chance, and has been answered since, starts from nothing."""
    listed = PoisonList(FakeClock())
    listed.blame([BAD, GOOD])
    listed.clear(GOOD)
    listed.blame([BAD, GOOD])
    assert listed.refuses(BAD)
    assert not listed.refuses(GOOD)


def test_it_is_bounded() -> None:
    """However many prompts are blamed, the latest are kept."""
    listed = PoisonList(FakeClock())
    for _ in range(2):
        listed.blame([(i,) for i in range(3 * KEPT)])
    assert len(listed) == KEPT
    listed.blame([BAD])
    listed.blame([BAD])
    assert listed.refuses(BAD)
