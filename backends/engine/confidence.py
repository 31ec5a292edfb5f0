"""How sure a draft model may be taken to be: what it says of its own token, as it came true.

A model that gives its token 0.9 is right less often than that about what another model will say,
and how much less differs from pair to pair. So its probabilities are sorted into buckets, each of
which remembers how often its tokens held.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from backends.engine.payoff import Odds

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
KEEP = 0.99
WEIGHT = 4.0
"""Trials that the model's own word stands for, until a bucket has seen some."""


def probability(row: NDArray[np.float32], token: int) -> float:
    """A token's, in the model's own distribution."""
    return float(1.0 / np.exp(row - row[token], dtype=np.float32).sum(dtype=np.float64))


class Confidence:
    """One worker's calibration, over all that is drafted in it."""

    def __init__(self) -> None:
        middles = [(low + high) / 2 for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True)]
        self._odds = [Odds(prior=middle, weight=WEIGHT, keep=KEEP) for middle in middles]

    def chance(self, said: float) -> float:
        """That a token holds to which the draft model gave this probability."""
        return self._odds[bisect_right(EDGES, said)].chance

    def see(self, said: float, *, held: bool) -> None:
        self._odds[bisect_right(EDGES, said)].see(int(held), int(not held))
