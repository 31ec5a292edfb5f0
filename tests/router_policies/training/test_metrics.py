"""The figures of a ranking, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from router_policies.training.metrics import apgr, calibration_error, cpt, curve, measure


def test_the_best_order_closes_the_gap_first() -> None:
    """With all gains first, quality is whole after their share; with all last, only at the end."""
    gain = np.array([1, 0, 0, 0, 1, 0, 0, 0, 0, 0], float)
    assert cpt(gain, gain, 1.0) == pytest.approx(0.2)
    assert apgr(gain, gain) == pytest.approx(0.9)
    assert apgr(-gain, gain) == pytest.approx(0.1)


def test_chance_is_a_half() -> None:
    """Scores that say nothing are worth 0.5, whether random or all the same."""
    rng = np.random.default_rng(0)
    gain = rng.choice([-1, 0, 1], 4000, p=[0.1, 0.5, 0.4]).astype(float)
    assert apgr(np.zeros(4000), gain) == pytest.approx(0.5)
    found = measure(rng.random(4000), gain, rounds=50)
    assert found.low < 0.5 < found.high
    assert found.rows == 4000


def test_ties_do_not_depend_on_the_order() -> None:
    """Prompts of one score share what they gain, in whatever order they are listed."""
    scores = np.array([2, 1, 1, 1, 0], float)
    gain = np.array([1, 0, 1, 0, 0], float)
    line = curve(scores, gain)
    again = curve(scores[[0, 3, 2, 1, 4]], gain[[0, 3, 2, 1, 4]])
    assert line.tolist() == pytest.approx(again.tolist())
    assert line[0] == 0 and line[-1] == 1


def test_calibration_is_the_gap_between_said_and_happened() -> None:
    """Who says 0.8 and is right in 8 of 10 has no error; who is right in 5 has 0.3."""
    said = np.full(100, 0.8)
    right = np.tile([1.0] * 8 + [0.0] * 2, 10)
    assert calibration_error(said, right) == pytest.approx(0.0, abs=1e-9)
    assert calibration_error(said, np.tile([1.0, 0.0], 50), bins=1) == pytest.approx(0.3)
