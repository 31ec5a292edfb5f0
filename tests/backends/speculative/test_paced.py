"""The real session between paced engines, in virtual time: what it brings, and that it never loses.

Passes last as long as they are told to and no neighbour can blur them, so what is compared are
exact numbers. `tests/bench/speculation.py` prints the same in real time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.speculative.controller import ON_GAIN
from tests.fakes.paced import Weather, coin
from tests.fakes.paced_pair import NeverIdle, Pair, Taken, never_idle, rounds, streaming
from tests.fakes.virtual_time import run

FAST = Pair(target_s=0.02, draft_s=0.0067, holds=coin(0.85, 3))
RTTS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15)


@pytest.mark.parametrize("rtt_s", RTTS)
@pytest.mark.parametrize(("target_s", "draft_s"), [(0.01, 0.005), (0.02, 0.0067), (0.033, 0.005)])
def test_never_idle_is_what_the_formula_says(target_s: float, draft_s: float, rtt_s: float) -> None:
    """At any round trip: not slower than plain streaming, and within 8 % of the form in passes."""
    pair = Pair(target_s=target_s, draft_s=draft_s, holds=coin(0.85, 3))
    weather = Weather(rtt_s=rtt_s)
    plain_s = run(streaming(pair, weather))
    taken = run(never_idle(pair, weather))
    assert plain_s == pytest.approx(rtt_s + pair.tokens * target_s)
    assert taken.wall_s <= plain_s / 0.97
    assert taken.wall_s == pytest.approx(pair.in_passes(rtt_s), rel=0.08)
    assert taken.wall_s <= run(rounds(pair, weather)) * 1.001, "rounds in turn were faster"


def test_the_gain_at_twenty_milliseconds() -> None:
    """50 tokens a second, drafted at 150 with 85 of 100 right, over 20 ms: one and a half times."""
    weather = Weather(rtt_s=0.02)
    assert run(streaming(FAST, weather)) / run(never_idle(FAST, weather)).wall_s >= 1.5


@pytest.mark.parametrize("holds", [lambda at: False, coin(0.3)], ids=["never right", "seldom"])
@pytest.mark.parametrize("rtt_s", [0.0, 0.04])
def test_bad_drafts_cost_nothing(holds: Callable[[int], bool], rtt_s: float) -> None:
    """A target that never waits is not held up by wrong drafts."""
    pair, weather = Pair(target_s=0.02, draft_s=0.005, holds=holds), Weather(rtt_s=rtt_s)
    assert run(never_idle(pair, weather)).wall_s <= run(streaming(pair, weather)) / 0.97


def test_a_line_that_jitters_and_loses() -> None:
    """Late and lost packets delay plain streaming as well; drafts never add to it."""
    for seed in range(4):
        weather = Weather(rtt_s=0.04, jitter_s=0.03, loss=0.02, seed=seed)
        assert run(never_idle(FAST, weather)).wall_s <= run(streaming(FAST, weather)) / 0.97


def answers(pair: Pair, weather: Weather, count: int, **options: object) -> list[Taken]:
    async def story() -> list[Taken]:
        backend = NeverIdle(pair, weather, **{"ngram": False, **options})  # type: ignore[arg-type]
        try:
            return [await backend.answer() for _ in range(count)]
        finally:
            await backend.aclose()

    return run(story())


def test_a_pair_that_pays_is_engaged_from_its_second_answer() -> None:
    """The first one probes; then the formula has what it needs, and what is realised agrees."""
    taken = answers(FAST, Weather(rtt_s=0.02), 8)
    assert [each.report.strategy for each in taken] == ["companion;off"] + ["companion"] * 7
    last = taken[-1].report
    assert last.gain == pytest.approx(1.65, rel=0.1)
    assert last.predicted == pytest.approx(last.gain, rel=0.15)
    assert last.alpha == pytest.approx(FAST.alpha, abs=0.08)


def test_a_drafter_slower_than_the_target_is_switched_off() -> None:
    """It can never catch up: after what it takes to know its pace, nobody drafts."""
    slow = Pair(target_s=0.01, draft_s=0.02, holds=coin(0.95))
    taken = answers(slow, Weather(rtt_s=0.02), 6)
    assert {each.report.strategy for each in taken} == {"companion;off"}
    assert taken[-1].report.drafted == 0
    assert taken[-1].report.proposed == 0


def test_wide_passes_that_cost_switch_it_off() -> None:
    """A target on a CPU, where each row costs: what was drafted in the probes is all."""
    pair = Pair(target_s=0.02, draft_s=0.002, holds=coin(0.8, 3))
    taken = answers(pair, Weather(), 6, pass_s=lambda rows: 0.02 * rows)
    plain_s = run(streaming(pair, Weather()))
    assert taken[-1].report.strategy == "companion;off"
    assert taken[-1].wall_s <= plain_s * 1.001


def test_a_mid_answer_loss_is_given_up() -> None:
    """Acceptance that breaks down while rows cost: drafting ends before the answer does."""
    pair = Pair(target_s=0.02, draft_s=0.002, holds=lambda at: True, tokens=384)
    rows = {"cost": 0.0}

    async def story() -> Taken:
        backend = NeverIdle(
            pair,
            Weather(),
            ngram=False,
            pass_s=lambda width: 0.02 * (1 + rows["cost"] * (width - 1)),
        )
        try:
            for _ in range(4):
                good = await backend.answer()
            assert good.report.strategy == "companion"
            assert good.report.gain is not None
            assert good.report.gain > ON_GAIN
            rows["cost"] = 3.0
            return await backend.answer()
        finally:
            await backend.aclose()

    assert run(story()).report.strategy == "companion;off"


def test_lookup_drafts_without_a_model() -> None:
    """A pair of a target alone: what repeats is drafted from what was said before."""

    async def story() -> tuple[Taken, Taken]:
        pair = Pair(target_s=0.02, draft_s=1.0, holds=lambda at: False, tokens=512)
        backend = NeverIdle(pair, Weather(rtt_s=0.01), draft=None, always=True, ahead=32)
        try:
            first = await backend.answer()
            return first, await backend.answer()
        finally:
            await backend.aclose()

    first, second = run(story())
    assert first.report.strategy == "companion;off", "whose token ids they are, it tells"
    assert second.report.strategy == "companion"
    sent, held = second.report.sources["ngram"]
    assert held > 0.5 * sent > 100
    assert second.wall_s < 0.8 * first.wall_s
