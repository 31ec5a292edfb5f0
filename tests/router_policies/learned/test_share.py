"""A kept share and a spending cap: held whatever the traffic is, read without a trace."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_policies.learned.share import HOUR_S, WINDOW, ShareKeeper, SpendCap

START = [i / 100 for i in range(101)]


def sent(keeper: ShareKeeper, scores: list[float]) -> list[bool]:
    found = []
    for score in scores:
        strong = keeper.rank(score) >= keeper.cut
        keeper.note(score, strong=strong)
        found.append(strong)
    return found


@settings(deadline=None)
@given(
    target=st.sampled_from([0.1, 0.3, 0.5, 0.8]),
    order=st.sampled_from(["shuffled", "rising", "falling", "constant", "steps"]),
    offset=st.floats(-5, 5),
    seed=st.integers(0, 99),
)
def test_a_share_is_held(target: float, order: str, offset: float, seed: int) -> None:
    """From request 500 to 2,000 the share is the target's within 6 points, in any order of scores
    and wherever they lie beside those of training."""
    rng = random.Random(seed)
    scores = [rng.gauss(offset, 1) for _ in range(2000)]
    match order:
        case "rising" | "falling":
            scores.sort(reverse=order == "falling")
        case "constant":
            scores = [offset] * 2000
        case "steps":
            scores = [score + 3 * (index // 400) for index, score in enumerate(scores)]
    after = sent(ShareKeeper(target, START), scores)[500:]
    assert sum(after) / len(after) == pytest.approx(target, abs=0.06)


def test_the_highest_scores_go() -> None:
    """Of steady traffic it is the upper part that goes to the strong side."""
    rng = random.Random(1)
    scores = [rng.random() for _ in range(3000)]
    went = sent(ShareKeeper(0.3, START), scores)
    late = list(zip(scores, went, strict=True))[1000:]
    lowest = sorted(score for score, strong in late if strong)[len(late) // 20]
    assert lowest > 0.6


@pytest.mark.parametrize(("target", "wanted"), [(0.0, 0), (1.0, 200)])
def test_all_or_none(target: float, wanted: int) -> None:
    """A share of nothing sends nothing, a share of one everything."""
    rng = random.Random(2)
    assert sum(sent(ShareKeeper(target, START), [rng.random() for _ in range(200)])) == wanted


def test_what_cannot_be_reached_is_not_saved_up() -> None:
    """After a long time in which nothing could be sent, not everything is sent at once."""
    keeper = ShareKeeper(0.3, START)
    rng = random.Random(3)
    for _ in range(5000):
        keeper.note(rng.random(), strong=False)
    after = sent(keeper, [rng.random() for _ in range(300)])
    assert sum(after[200:]) < 60


def test_reading_changes_nothing() -> None:
    """Ranks and cuts asked for leave no trace."""
    keeper = ShareKeeper(0.3, START)
    sent(keeper, [0.1, 0.9, 0.5])
    before = keeper.cut, keeper.share
    assert [keeper.rank(0.5) for _ in range(5)] == [keeper.rank(0.5)] * 5
    assert (keeper.cut, keeper.share) == before


def test_spending_is_capped_by_the_hour() -> None:
    """What was spent counts for an hour, and no longer."""
    cap = SpendCap(1.0)
    cap.note(0.6, 0.0)
    assert not cap.reached(10.0)
    cap.note(0.5, 1800.0)
    assert cap.reached(1801.0)
    assert not cap.reached(HOUR_S + 1)
    cap.note(0.6, HOUR_S + 2)
    assert cap.reached(HOUR_S + 3)
    assert not cap.reached(3 * HOUR_S)


@settings(deadline=None)
@given(kept=st.floats(0, 1), target=st.sampled_from([0.2, 0.3, 0.5]), seed=st.integers(0, 99))
def test_a_kept_draft_is_not_one_that_was_sent(kept: float, target: float, seed: int) -> None:
    """However many drafts a cascade keeps near the cut, the share of what really goes is held."""
    rng, keeper = random.Random(seed), ShareKeeper(target, START)
    gone = []
    for _ in range(2000):
        score = rng.gauss(0, 1)
        rank, cut = keeper.rank(score), keeper.cut
        cascade = abs(rank - cut) <= 0.1
        strong = cascade or rank >= cut
        keeper.note(score, strong=strong)
        if cascade and rng.random() < kept:
            keeper.recall(score)
            strong = False
        gone.append(strong)
    assert sum(gone[500:]) / 1500 == pytest.approx(target, abs=0.06)
    assert keeper.share == sum(gone[-WINDOW:]) / WINDOW


def test_a_recall_undoes_one_request() -> None:
    """It leaves what was noted as kept here from the start, wherever it is in the window."""
    one, other = ShareKeeper(0.3, START), ShareKeeper(0.3, START)
    for score in (0.2, 0.9, 0.5):
        one.note(score, strong=score == 0.9)
        other.note(score, strong=False)
    one.recall(0.9)
    assert one.share == other.share == 0.0
    assert one.cut == pytest.approx(other.cut)
