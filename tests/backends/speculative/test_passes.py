"""How long passes take: counted by both ends, told by the companion, believed with care."""

from __future__ import annotations

import asyncio

import pytest

from backends.speculative.controller import Estimates
from backends.speculative.passes import ENOUGH_PASSES, Passes, TargetPace, pass_seconds
from backends.speculative.session import Open, Opened
from gateway.core.exchange import Call
from tests.backends.speculative.test_spare import Behind, behind


def test_a_width_counts_once_it_was_seen_often_enough() -> None:
    """One late packet is not taken for a pass."""
    passes = Passes()
    passes.note(1, 10.0)
    for at in range(1, ENOUGH_PASSES):
        passes.note(1, 10.0 + 0.02 * at)
    assert passes.seconds == {}
    passes.note(1, 10.0 + 0.02 * ENOUGH_PASSES)
    assert passes.seconds[1] == pytest.approx(0.02)


def test_a_targets_pace_moves_with_its_sessions() -> None:
    """The newest counts a fifth; nothing is said before anything was seen."""
    pace = TargetPace()
    assert pace.t1_ms is None and pace.tv_ms == {}
    pace.see({1: 0.02, 4: 0.03})
    pace.see({1: 0.03})
    assert pace.t1_ms == pytest.approx(22.0)
    assert pace.tv_ms == {"1": 22.0, "4": 30.0}
    pace.see(dict.fromkeys(range(200), 0.1))
    assert len(pace.tv_ms) <= 32


def test_what_was_measured_here_counts_more() -> None:
    """A companion's word fills only what nobody has seen; nonsense in it is left out."""
    told = Opened(
        session="s", tv_ms={"1": 20.0, "4": 30.0, "\u00b2": 1.0, "9" * 5000: 1.0, "2": 0.0}
    )
    assert pass_seconds(told) == {1: 0.02, 4: 0.03}
    known = Estimates(verify_s={4: 0.05}).told(pass_seconds(told))
    assert known.verify_s == {1: 0.02, 4: 0.05}
    assert Estimates().told(pass_seconds(told)).target_s == 0.02


@pytest.mark.parametrize("ms", [float("inf"), float("nan"), 1e300, 1e-300, 5e-324, -1.0])
def test_no_word_of_a_companion_breaks_the_controller(ms: float) -> None:
    """Times that no pass takes are not believed, so that nothing is divided by or led with them."""
    told = pass_seconds(Opened(session="s", tv_ms={"1": ms, "2": 5.0}))
    assert told == {2: 0.005}
    for known in (Estimates(alpha=0.8, draft_s=0.01), Estimates()):
        estimates = known.told(told)
        assert 0 <= estimates.ahead(32) <= 32
        assert 0 < estimates.break_even() <= 1


async def opened_by(here: Behind) -> Opened:
    upstream = here.upstream
    session = await upstream._connect(
        upstream._url,
        upstream="pair",
        zone=upstream.upstream.zone,
        call=Call(id="x"),
        clock=upstream._target.http.clock(Call(id="x"), streaming=True),
        api_key=None,
        timeout_s=2,
    )
    asked = {"model": "target", "prompt": "x", "max_tokens": 1}
    opened = await session.open(Open(model="target", endpoint="completion", request=asked))
    await session.aclose()
    return opened


def test_the_companion_says_what_it_measured() -> None:
    """The first session is told nothing, the next what the first one's passes took."""

    async def story() -> None:
        async with behind() as here:
            assert (await opened_by(here)).t1_ms is None
            await here.warm()
            async with asyncio.timeout(5):
                while (told := await opened_by(here)).t1_ms is None:
                    await asyncio.sleep(0.02)
            assert told.t1_ms > 0 and told.tv_ms["1"] == told.t1_ms

    asyncio.run(story())
