"""How many requests may wait for an upstream's first content at once, learnt from how long they do.

After Netflix's Gradient2: where time to first token grows against its long average, requests queue
over there, and the limit shrinks; where it does not and the limit is used, it grows. Counted are
requests that wait, not streams that flow: a stream's length says nothing about load, and a GPU that
has begun an answer has room for it.

Three things differ, since under a minute of five times the load Gradient2 grew with its own queue
(tests/gateway/resilience/test_overload.py): what was slow while the limit was full hardly counts
for the average; one decision a round trip, for the samples in between were let in under the old
limit; and growth is QUEUE a round trip, not a share of it a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 100.0
LEAST = 20.0
MOST = 1000.0
OVERFULL = 2.0
"""So many times the limit may wait where there is nobody else to ask."""
WINDOW = 600
TOLERANCE = 1.5
QUEUE = 4.0
DOUBT = 100.0
"""What a slow sample under a full limit counts for less in the average, which otherwise would take
an overload for the usual. Not nothing: an upstream may have become slower for good."""
WARM = 10
"""Samples before the average means anything."""


@dataclass(slots=True)
class ConcurrencyLimit:
    """Of one upstream. `see` takes seconds.

    `settling` counts the samples that were let in before the limit last shrank.
    """

    limit: float = FIRST
    waiting: int = 0
    average_s: float = 0.0
    seen: int = 0
    settling: int = 0

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
        if self.seen > WARM and ttft_s > self.average_s and self.full:
            weight /= DOUBT
        self.average_s += weight * (ttft_s - self.average_s)
        if self.seen < WARM:
            return
        if self.average_s / ttft_s > 2:
            self.average_s *= 0.95  # after an overload, forget it faster
        self.settling = max(0, self.settling - 1)
        if self.waiting < self.limit / 2:
            return  # whatever it was, it was not too many at once; nor did anybody try for more
        gradient = max(0.5, min(1.0, TOLERANCE * self.average_s / ttft_s))
        if gradient >= 1:
            self.limit = min(MOST, self.limit + QUEUE / self.limit)
        elif not self.settling:
            self.limit = max(LEAST, self.limit * gradient)
            self.settling = self.waiting
