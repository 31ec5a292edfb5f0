"""Keeping a wanted share of requests on the strong side, whatever the traffic is like.

A threshold tuned on one set sent 3 to 100 % of others to the cloud, so the threshold here is a
quantile of the traffic's own last scores. Until there are enough, scores from training fill in.
Under drift a quantile of the past lags behind, so what was really sent moves the cut as well, a
step for each request (as in adaptive conformal inference, Gibbs and Candès, NeurIPS 2021): the
share over T requests is off by at most about 1 / (STEP · T), whatever comes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

WINDOW = 500
WARM = 200
"""With so many scores of its own, training's are no longer needed."""
STEP = 0.02
"""How far a request that was sent raises the cut, times what it should not have been."""

HOUR_S = 3600.0


class ShareKeeper:
    """The state of one alias's closed loop. Read by assessments, fed only by requests that ran."""

    def __init__(self, target: float, start: Sequence[float]) -> None:
        self.target = target
        self._start = tuple(start)
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._sent: deque[bool] = deque(maxlen=WINDOW)
        self._strong = 0
        self._shift = 0.0

    @property
    def share(self) -> float | None:
        """The share of the last window that went to the strong side; None before the first."""
        return self._strong / len(self._sent) if self._sent else None

    def rank(self, score: float) -> float:
        """The share of scores below this one, 0 to 1."""
        own = bisect_left(self._sorted, score)
        lent = max(0, WARM - len(self._sorted))
        if not lent:
            return own / len(self._sorted)
        given = bisect_left(self._start, score) / len(self._start)
        return (own + lent * given) / (len(self._sorted) + lent)

    @property
    def cut(self) -> float:
        """The rank from which a request goes to the strong side."""
        return 1.0 - self.target + self._shift

    def note(self, score: float, *, strong: bool) -> None:
        """A request with this score was sent to one side."""
        self._move(STEP * (strong - self.target))
        if len(self._recent) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(score)
        insort(self._sorted, score)
        if len(self._sent) == WINDOW:
            self._strong -= self._sent[0]
        self._sent.append(strong)
        self._strong += strong

    def recall(self, score: float) -> None:
        """One with this score, noted as sent, was answered here after all."""
        self._move(-STEP)
        latest = zip(reversed(self._recent), reversed(self._sent), strict=True)
        for back, (own, strong) in enumerate(latest, start=1):
            if own == score and strong:
                self._sent[-back] = False
                self._strong -= 1
                return

    def _move(self, step: float) -> None:
        # No further than it takes to send all or none: what cannot be reached is not saved up.
        shift = self._shift + step
        self._shift = min(self.target + STEP, max(self.target - 1.0 - STEP, shift))


class SpendCap:
    """US dollars spent in the last hour, against a bound."""

    def __init__(self, usd_per_hour: float) -> None:
        self.usd_per_hour = usd_per_hour
        self._spent: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def reached(self, now: float) -> bool:
        """Whether nothing more may be spent at `now`, in seconds. Changes nothing."""
        old = 0.0
        for at, usd in self._spent:
            if at > now - HOUR_S:
                break
            old += usd
        return self._sum - old >= self.usd_per_hour

    def note(self, usd: float, now: float) -> None:
        """So much was spent."""
        while self._spent and self._spent[0][0] <= now - HOUR_S:
            self._sum -= self._spent.popleft()[1]
        self._spent.append((now, usd))
        self._sum = (
            sum(each for _, each in self._spent) if len(self._spent) < 2 else self._sum + usd
        )
