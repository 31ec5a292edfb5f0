"""The breaker's states, with time turned by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.resilience.breaker import (
    FIRST_PAUSE_S,
    JITTER,
    LEAST,
    LONGEST_PAUSE_S,
    PANIC_S,
    PROBE_LIMIT_S,
    THRESHOLD,
    WINDOW_S,
    Breaker,
)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(jitter=lambda: 0.0)
    for _ in range(THRESHOLD):
        breaker.failed(now)
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """Four failures leave it closed, a success forgets them, five in a row open it."""
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker.failed(0)
    assert breaker.allows(0)
    breaker.succeeded(0.0)
    assert opened().allows(FIRST_PAUSE_S - 0.01) is False


def test_one_probe_after_the_pause() -> None:
    """Of many callers after the pause one may probe; its success closes the breaker."""
    breaker = opened()
    assert [breaker.enter(FIRST_PAUSE_S) for _ in range(3)] == [True, False, False]
    breaker.succeeded(0.0)
    assert breaker.closed
    assert breaker.enter(FIRST_PAUSE_S)


def test_failed_probes_double_the_pause() -> None:
    """Each failed probe doubles the pause, up to five minutes."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        now = breaker.open_until
        assert breaker.enter(now)
        breaker.failed(now)
        pauses.append(breaker.open_until - now)
    assert pauses[:3] == [10, 20, 40]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_lost_probe_frees_its_place() -> None:
    """A probe whose client left, or that never reports, does not keep the breaker shut."""
    breaker = opened()
    assert breaker.enter(FIRST_PAUSE_S)
    breaker.abandoned()
    assert breaker.enter(FIRST_PAUSE_S)
    assert not breaker.enter(FIRST_PAUSE_S + 1)
    assert breaker.enter(FIRST_PAUSE_S + PROBE_LIMIT_S)


def test_cooling_is_no_failure() -> None:
    """A 429 keeps requests away until its moment and then leaves no trace."""
    breaker = Breaker()
    breaker.cool(7)
    assert not breaker.allows(6.9)
    assert breaker.allows(7)
    assert breaker.closed


@given(st.lists(st.sampled_from(["failed", "succeeded", "cool", "enter", "abandoned", "wait"])))
def test_it_always_opens_up_again(steps: list[str]) -> None:
    """Whatever happened, there is a later time at which a request may be tried."""
    breaker, now = Breaker(), 0.0
    for step in steps:
        match step:
            case "failed":
                breaker.failed(now)
            case "succeeded":
                breaker.succeeded(now)
            case "cool":
                breaker.cool(now + 30)
            case "enter":
                breaker.enter(now)
            case "abandoned":
                breaker.abandoned()
            case _:
                now += 3
    assert breaker.allows(now + LONGEST_PAUSE_S * (1 + JITTER) + PROBE_LIMIT_S)


def test_failing_every_other_time_opens_it() -> None:
    """Half of twenty attempts in thirty seconds open it though no two failures are neighbours;
    spread over a longer time they do not."""

    def flap(step: float) -> Breaker:
        breaker = Breaker()
        for i in range(LEAST):
            breaker.succeeded(i * step)
            breaker.failed(i * step)
        return breaker

    assert not flap(0.1).closed
    assert flap(WINDOW_S / 8).closed


def test_panic_probes_once_a_second() -> None:
    """With nothing else to ask, an open one is probed before its time: one at a time, a second
    apart; one that cools is not."""
    breaker = opened()
    assert not breaker.enter(0.5, panic=True)
    assert [breaker.enter(PANIC_S, panic=True) for _ in range(3)] == [True, False, False]
    breaker.failed(PANIC_S + 0.1)
    assert not breaker.enter(PANIC_S + 0.5, panic=True)
    assert breaker.enter(2 * PANIC_S + 0.2, panic=True)
    breaker.cool(100)
    assert not breaker.enter(99, panic=True)
