"""The noise: Gumbel's distribution, independent in all it depends on, and the same everywhere."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest

from backends.engine.gumbel import Noise, margin
from tests.fakes.goodness import fit

EULER = 0.5772156649


def uniform(noise: np.ndarray) -> np.ndarray:
    return np.exp(-np.exp(-noise))


@pytest.mark.parametrize("along", ["tokens", "positions", "seeds", "attempts"])
def test_the_noise_is_gumbels(along: str) -> None:
    """Along tokens, positions, seeds and attempts alike: mean, variance, and flat in 64 cells."""
    count = 20_000
    ids = np.arange(4, dtype=np.int32)
    if along == "tokens":
        drawn = Noise(7, count)(3, np.arange(count, dtype=np.int32)).copy()
    elif along == "positions":
        noise = Noise(7, 4)
        drawn = np.array([noise(at, ids)[2] for at in range(count)])
    elif along == "seeds":
        drawn = np.array([Noise(seed, 4)(5, ids)[1] for seed in range(count)])
    else:
        noise = Noise(7, 4)
        drawn = np.array([noise(5, ids, attempt)[0] for attempt in range(count)])
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(EULER, abs=0.04)
    assert drawn.var() == pytest.approx(math.pi**2 / 6, rel=0.06)
    cells = Counter((uniform(drawn) * 64).astype(int).tolist())
    assert fit(cells, dict.fromkeys(range(64), 1 / 64)).good


def test_neighbours_are_independent() -> None:
    """Noise at neighbouring tokens, positions and seeds fills the square evenly."""
    ids = np.arange(2_000, dtype=np.int32)
    first = uniform(Noise(1, 2_000)(0, ids)).copy()
    for other in (
        np.roll(first, 1),
        uniform(Noise(1, 2_000)(1, ids)).copy(),
        uniform(Noise(2, 2_000)(0, ids)).copy(),
        uniform(Noise(1, 2_000)(0, ids, 1)).copy(),
    ):
        cells = Counter(zip((first * 8).astype(int), (other * 8).astype(int), strict=True))
        exact = {(np.int64(i), np.int64(j)): 1 / 64 for i in range(8) for j in range(8)}
        assert fit(cells, exact).good


def test_company_changes_nothing() -> None:
    """A token's noise does not depend on which tokens survived the filters, nor on their order."""
    noise = Noise(-3, 1_000)
    whole = noise(9, np.arange(1_000, dtype=np.int32)).copy()
    some = np.array([997, 3, 500], dtype=np.int32)
    assert noise(9, some).tolist() == whole[some].tolist()
    assert Noise(2**64 - 3, 1_000)(9, some).tolist() == whole[some].tolist()


def test_a_shared_seed_couples() -> None:
    """Two models that take the same noise agree at least (1 - TV)/(1 + TV) of the time, which
    independent samples do not (Daliri, Musco, Suresh 2408.07978)."""
    chance = np.random.default_rng(5)
    target = chance.normal(0, 2, 50)
    draft = target + chance.normal(0, 0.7, 50)
    p, q = (np.exp(x) / np.exp(x).sum() for x in (target, draft))
    tv = float(abs(p - q).sum() / 2)
    ids = np.arange(50, dtype=np.int32)
    noise, other, trials = Noise(1, 50), Noise(2, 50), 4_000
    coupled = alone = 0
    for at in range(trials):
        keys = noise(at, ids)
        said = int((target + keys).argmax())
        coupled += said == int((draft + keys).argmax())
        alone += said == int((draft + other(at, ids)).argmax())
    assert coupled / trials > (1 - tv) / (1 + tv) - 0.03
    assert coupled > 1.3 * alone


def test_the_margin_is_to_the_second() -> None:
    """What is closer than a batch's rounding is known as a tie; the row is left as it was."""
    keys = np.array([1.0, 5.0, 4.25, -np.inf])
    assert margin(keys, 1) == 0.75
    assert keys.tolist() == [1.0, 5.0, 4.25, -np.inf]
    assert margin(np.array([2.0]), 0) == math.inf


def test_a_large_vocabulary_is_not_slow() -> None:
    """Printed, not asserted: noise for 152,000 tokens, in microseconds of CPU."""
    ids = np.arange(152_000, dtype=np.int32)
    noise = Noise(1, 152_000)
    noise(0, ids)
    before = time.process_time()
    for at in range(20):
        assert len(noise(at, ids)) == 152_000
    print(f"{(time.process_time() - before) / 20 * 1e6:.0f} us")  # noqa: T201
