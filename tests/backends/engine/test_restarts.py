"""When a dead worker is started again, in made-up time."""

from __future__ import annotations

from itertools import pairwise

from backends.engine.restarts import BACKOFF_S, HOLD_S, QUARANTINE_S, STEADY_S, Pause, Restarts


def crash_loop(restarts: Restarts, times: int, *, now: float = 0.0) -> list[tuple[float, Pause]]:
    """Workers that die at once: (when, what followed)."""
    found = []
    for _ in range(times):
        pause = restarts.ended(now, 0.0)
        found.append((now, pause))
        now += pause.seconds
    return found


def test_back_off_grows_while_ends_are_rare_enough() -> None:
    """0.1, 1, 2 … 30 s, as long as no rule shuts: here each worker lives for forty seconds."""
    restarts, now, pauses = Restarts(), 0.0, []
    for _ in range(4):
        now += 40.0
        pauses.append(restarts.ended(now, 40.0).seconds)
    assert pauses == list(BACKOFF_S[:4])


def test_a_worker_that_was_steady_begins_anew() -> None:
    """After a minute of service an end costs half a second again."""
    restarts = Restarts()
    assert restarts.ended(0.0, 0.0).seconds == 0.1
    assert restarts.ended(1.0, 0.0).seconds == 1.0
    assert restarts.ended(100.0, STEADY_S).seconds == 0.1


def test_three_ends_in_a_minute_are_a_quarantine() -> None:
    """The third is told so, and so is every further try that fails, until one lasts."""
    restarts = Restarts()
    states = [pause.state for _, pause in crash_loop(restarts, 4)]
    assert states == ["waiting", "waiting", "quarantined", "quarantined"]
    again = restarts.ended(1000.0, STEADY_S)
    assert (again.state, again.seconds) == ("waiting", 0.1)


def test_five_ends_in_ten_minutes_hold_it_open() -> None:
    """A crash loop costs five tries, and from then on one in ten minutes."""
    loop = crash_loop(Restarts(), 8)
    assert [pause.state for _, pause in loop[4:]] == ["held"] * 4
    assert all(pause.seconds == HOLD_S for _, pause in loop[4:])
    times = [when for when, _ in loop]
    assert times[4] < 2 * QUARANTINE_S + 4
    assert all(after - before > HOLD_S - 1e-6 for before, after in pairwise(times[4:]))


def test_slow_loops_are_loops_too() -> None:
    """A worker that dies after seventy seconds each time is held as well: five in ten minutes."""
    restarts = Restarts()
    states = [restarts.ended(70.0 * i, 70.0).state for i in range(6)]
    assert states == ["waiting"] * 4 + ["held"] * 2
