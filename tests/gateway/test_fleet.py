"""The fleet's view of its upstreams: what an attempt that ended says of one, and what not."""

from __future__ import annotations

from gateway.core.errors import UpstreamFailed
from gateway.core.routing import Zone
from gateway.fleet import Fleet, Reach, Trial
from gateway.resilience.breaker import FIRST_PAUSE_S, JITTER, THRESHOLD
from tests.fakes.scripted import ScriptedBackend, upstream

LONGEST_FIRST_S = FIRST_PAUSE_S * (1 + JITTER)


class Turned:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def one(clock: Turned) -> tuple[Fleet, Reach]:
    fleet = Fleet({"a": ScriptedBackend(upstream("a"))}, clock)
    fleet.assume_healthy()
    return fleet, fleet.within(Zone.PUBLIC)


def begun(reach: Reach) -> Trial:
    trial = reach.begin("a")
    assert trial is not None
    return trial


def test_all_who_were_under_way_are_one_outage() -> None:
    """Thirty requests that die with their upstream rest it for its first pause, as five would."""
    clock = Turned()
    fleet, reach = one(clock)
    for trial in [begun(reach) for _ in range(30)]:
        trial.end(UpstreamFailed("gone"))
    assert fleet.in_flight() == {"a": 0}
    assert fleet.vitals()["a"].breaker == 1
    clock.now += LONGEST_FIRST_S
    assert fleet.snapshot(["a"])[0].healthy


def test_a_probe_is_not_ended_by_who_came_before_it() -> None:
    """A client from before the outage that leaves, or fails at last, lets no second probe in; the
    probe's own failure doubles the pause.
    """
    clock = Turned()
    fleet, reach = one(clock)
    leaver, loser, *others = [begun(reach) for _ in range(THRESHOLD + 2)]
    for trial in others:
        trial.end(UpstreamFailed("gone"))
    clock.now += LONGEST_FIRST_S
    probe = begun(reach)
    leaver.end(GeneratorExit())
    loser.end(UpstreamFailed("gone"))
    assert reach.begin("a") is None
    probe.end(UpstreamFailed("still gone"))
    clock.now += LONGEST_FIRST_S
    assert not fleet.snapshot(["a"])[0].healthy
    clock.now += LONGEST_FIRST_S
    assert fleet.snapshot(["a"])[0].healthy
