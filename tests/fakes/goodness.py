"""Does a sample come from a known distribution? Chi-square over its likeliest cells, and TV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

Cell = TypeVar("Cell", bound=Hashable)

LIKELIEST = 32
LEAST_P = 0.001


@dataclass(frozen=True, slots=True)
class Fit:
    """`p` of the chi-square test, total variation and its bound of 3 sqrt(cells / 4N)."""

    p: float
    tv: float
    bound: float

    @property
    def good(self) -> bool:
        return self.p > LEAST_P and self.tv <= self.bound


def fit(seen: Counter[Cell], exact: Mapping[Cell, float]) -> Fit:
    """The likeliest cells and one of all the others together (speculation.md 9.3)."""
    n = seen.total()
    order = sorted(exact, key=lambda cell: -exact[cell])
    likely, rest = order[:LIKELIEST], order[LIKELIEST:]
    cells = [(seen[cell], n * exact[cell]) for cell in likely]
    tail = n - sum(count for count, _ in cells), n * sum(exact[cell] for cell in rest)
    if tail[1] > 0:
        cells.append(tail)
    elif tail[0]:
        return Fit(0.0, 1.0, 0.0)  # what cannot be was seen
    square = sum((count - expected) ** 2 / expected for count, expected in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty 1931: the cube root of a chi-square is nearly normal.
    z = ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    tv = sum(abs(seen[cell] / n - exact[cell]) for cell in exact) / 2
    return Fit(1 - NormalDist().cdf(z), tv, 3 * math.sqrt(len(exact) / (4 * n)))
