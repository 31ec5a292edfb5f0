"""Spilling past a queue: what cannot begin in time goes behind what can, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routing import Candidate, Route, Tier, Upstream, Zone
from gateway.spill import spilled


def candidate(name: str, wait_s: float | None = None, **more: object) -> Candidate:
    upstream = Upstream(name=name, kind="x", tier=Tier.LOCAL, zone=Zone.MACHINE, model="m")
    return Candidate(upstream=upstream, wait_s=wait_s, **more)  # type: ignore[arg-type]


def order(route: Route) -> list[str]:
    return [each.upstream.name for each in route.candidates]


def _late(each: Candidate, left_s: float) -> bool:
    return bool(each.wait_s) and (each.wait_s or 0.0) + (each.ttft_s or 0.0) > left_s


QUEUED = candidate("near", wait_s=3.0, ttft_s=0.5)
FAR = candidate("far", ttft_s=1.0)
ROUTE = Route(candidates=(QUEUED, FAR), reason="learned")


def test_a_queue_that_is_too_long_is_passed() -> None:
    """With 2 s left nobody waits 3 s for a turn; the reason says so."""
    moved = spilled(ROUTE, 2.0)
    assert order(moved) == ["far", "near"]
    assert moved.reason == "capacity"


def test_it_stays_where_there_is_time() -> None:
    """No limit, or one that the queue leaves enough of: the route is as it was."""
    assert spilled(ROUTE, None) is ROUTE
    assert spilled(ROUTE, 3.6) is ROUTE


def test_there_must_be_somebody_in_time() -> None:
    """Where all would be late, or who is not is down, the policy's own order stands."""
    alone = Route(candidates=(QUEUED,), reason="rule")
    both = Route(candidates=(QUEUED, candidate("also", wait_s=9.0)), reason="rule")
    down = Route(candidates=(QUEUED, candidate("far", healthy=False)), reason="rule")
    for route in (alone, both, down):
        assert spilled(route, 1.0) is route


candidates = st.lists(
    st.builds(
        candidate,
        name=st.text("abc", min_size=1, max_size=2),
        wait_s=st.none() | st.floats(0, 9),
        ttft_s=st.none() | st.floats(0, 9),
        healthy=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(candidates, st.none() | st.floats(0, 9))
def test_nobody_comes_and_nobody_goes(given: list[Candidate], left_s: float | None) -> None:
    """The same candidates, those in time among themselves as before, and so the late ones."""
    route = Route(candidates=tuple(given), reason="static")
    after = spilled(route, left_s)
    assert sorted(map(id, after.candidates)) == sorted(map(id, given))
    if after is not route:
        assert left_s is not None
        places = [(each, _late(each, left_s)) for each in after.candidates]
        assert [late for _, late in places] == sorted(late for _, late in places)
        assert {late for _, late in places} == {False, True}
        for side in (True, False):
            kept = [id(each) for each, late in places if late is side]
            assert kept == [id(each) for each in given if id(each) in kept]


def test_no_money_is_spent_past_the_cap() -> None:
    """Once an alias's money is gone, a queue is passed only to what is local; then the client
    waits."""
    far = replace(FAR, upstream=replace(FAR.upstream, tier=Tier.CLOUD))
    route = replace(ROUTE, candidates=(QUEUED, far))
    assert order(spilled(route, 2.0)) == ["far", "near"]
    assert spilled(route, 2.0, capped=True) is route
    assert order(spilled(ROUTE, 2.0, capped=True)) == ["far", "near"]
