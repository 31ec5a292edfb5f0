"""How many requests may wait for an upstream's first content at once, learnt from how long they do.

Netflix's Gradient2: where time to first token grows against its long average, requests queue over
there, and the limit shrinks; where it does not and the limit is used, it grows by a little. Counted
are requests that wait, not streams that flow: a stream's length says nothing about load, and a GPU
that has begun an answer has room for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 100.0
LEAST = 20.0
MOST = 1000.0
OVERFULL = 2.0
"""So many times the limit may wait where there is nobody else to ask."""
SMOOTHING = 0.2
WINDOW = 600
TOLERANCE = 1.5
QUEUE = 4.0
WARM = 10
"""Samples before the average means anything."""


@dataclass(slots=True)
class ConcurrencyLimit:
    """Of one upstream. `see` takes seconds."""

    limit: float = FIRST
    waiting: int = 0
    average_s: float = 0.0
    seen: int = 0

    @property
    def full(self) -> bool:
        """Others should be asked."""
        return self.waiting >= int(self.limit)

    @property
    def overfull(self) -> bool:
        """Nobody more, whoever else there is: they would only wait longer than they are willing."""
        return self.waiting >= int(self.limit * OVERFULL)

    def see(self, ttft_s: float) -> None:
        """An attempt got its first content; `waiting` still counts it."""
        if not (math.isfinite(ttft_s) and ttft_s > 0):
            return
        self.seen += 1
        weight = 1 / min(self.seen, WINDOW)
        self.average_s += weight * (ttft_s - self.average_s)
        if self.seen < WARM:
            return
        if self.average_s / ttft_s > 2:
            self.average_s *= 0.95  # after an overload, forget it faster
        gradient = max(0.5, min(1.0, TOLERANCE * self.average_s / ttft_s))
        if gradient >= 1 and self.waiting < self.limit / 2:
            return  # nobody tried whether more would do
        target = self.limit * gradient + QUEUE
        smooth = self.limit + SMOOTHING * (target - self.limit)
        self.limit = min(MOST, max(LEAST, smooth))
