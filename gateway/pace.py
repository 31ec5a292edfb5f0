"""How soon an upstream begins an answer: a part that everybody waits, and one per token read.

Learnt from each first content, as a straight line through the latest ones (exponentially weighted
least squares): time = base + cold tokens x per_token. A plain average of the time to first token
would call an upstream slow because its conversations are long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PER_TOKEN_S = 0.0002
"""Before anything is known: 5000 tokens read in a second, a small model on a GPU."""
MOST_PER_TOKEN_S = 0.05
SMOOTHING = 0.2
SLOW_SMOOTHING = 0.05
PRIOR_SD_S = 0.001
"""How far off PER_TOKEN_S may be: a measured slope counts by how sure it is beside this, for under
load the first content's time has more to do with who else is there than with the prompt."""
LEAST_NOISE = 0.25
LEAST_PER_TOKEN_S = PER_TOKEN_S / 4
LEAST_BASE = 0.1
"""The part of a time to first content that is never put down to reading: were it all of it, nobody
would be thought to wait, however many there are."""
FADES_S = 10.0
"""An upstream that is not asked is thought to be as good as the others, by half in this time:
otherwise one bad minute would keep it out for ever."""
ENOUGH = 10
"""Samples until they are fully believed: a first answer often waits for more than all later."""
KEEPS_SMOOTHING = 0.1
TELLING = 64
"""Warm tokens expected before an answer's `cached_tokens` says anything about our expectation."""


@dataclass(slots=True)
class Pace:
    """Of one upstream. Seconds and tokens.

    `keeps` is the share of what we think is warm that it really did not read again, by its own
    usage; 1 until it has ever reported cached tokens (`reports`), since many never do.
    """

    base_s: float | None = None
    per_token_s: float = PER_TOKEN_S
    keeps: float = 1.0
    reports: bool = False
    at: float = 0.0
    seen: int = 0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0
    _yy: float = 0.0

    def see(self, ttft_s: float, cold: float, now: float) -> None:
        """An answer began so long after it was asked for, with so many tokens to read first.

        The crowd that it met is to be taken out of `ttft_s` before: who has been busy is not slow.
        """
        if not (math.isfinite(ttft_s) and ttft_s > 0 and math.isfinite(cold) and cold >= 0):
            return
        self.seen += 1
        share = max(SLOW_SMOOTHING, 1 / self.seen)
        dx, dy = cold - self._x, ttft_s - self._y
        self._x += share * dx
        self._y += share * dy
        self._xx = (1 - share) * (self._xx + share * dx * dx)
        self._xy = (1 - share) * (self._xy + share * dx * dy)
        self._yy = (1 - share) * (self._yy + share * dy * dy)
        self.per_token_s = self._slope()
        base = max(LEAST_BASE * ttft_s, ttft_s - cold * self.per_token_s)
        old = self.base_s
        self.base_s = base if old is None else old + SMOOTHING * (base - old)
        self.at = now

    def _slope(self) -> float:
        """Seconds a token: the line's slope and what is usual, each by its certainty."""
        if self._xx <= 0:
            return PER_TOKEN_S
        slope = self._xy / self._xx
        samples = min(self.seen, 2 / SLOW_SMOOTHING)
        # Two points always lie on a line: no time to first content is surer than its noise.
        doubt = 2 / samples * (LEAST_NOISE * self._y) ** 2
        scatter = max(0.0, self._yy - slope * self._xy) + doubt
        unsure = scatter / (self._xx * samples)
        usual = PRIOR_SD_S**2
        mixed = (slope * usual + PER_TOKEN_S * unsure) / (usual + unsure)
        return min(MOST_PER_TOKEN_S, max(LEAST_PER_TOKEN_S, mixed))

    def now(self, best: tuple[float, float], now: float) -> tuple[float, float]:
        """(base, seconds a token) as believed now, if the best of the group has `best`."""
        if self.base_s is None:
            return best
        trust = min(1.0, self.seen / ENOUGH) * math.exp2((self.at - now) / FADES_S)
        return (
            best[0] + (self.base_s - best[0]) * trust,
            best[1] + (self.per_token_s - best[1]) * trust,
        )

    def see_cached(self, cached: int, expected: float) -> None:
        """So many tokens were warm by the upstream's own usage, and so many we expected."""
        self.reports = self.reports or cached > 0
        if self.reports and expected >= TELLING:
            self.keeps += KEEPS_SMOOTHING * (min(1.0, cached / expected) - self.keeps)
