"""The breaker's states, with time turned by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, PROBE_LIMIT_S, THRESHOLD, Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.failed(now)
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """Four failures leave it closed, a success forgets them, five in a row open it."""
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker.failed(0)
    assert breaker.allows(0)
    breaker.succeeded()
    assert opened().allows(FIRST_PAUSE_S - 0.01) is False


def test_one_probe_after_the_pause() -> None:
    """Of many callers after the pause one may probe; its success closes the breaker."""
    breaker = opened()
    assert [breaker.enter(FIRST_PAUSE_S) for _ in range(3)] == [True, False, False]
    breaker.succeeded()
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
                breaker.succeeded()
            case "cool":
                breaker.cool(now + 30)
            case "enter":
                breaker.enter(now)
            case "abandoned":
                breaker.abandoned()
            case _:
                now += 3
    assert breaker.allows(now + LONGEST_PAUSE_S + PROBE_LIMIT_S)
