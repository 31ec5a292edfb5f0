"""When a worker that has ended is started again. Pure: the clock is passed in.

    ended ──▶ waiting 0.1, 1, 2 … 30 s ──▶ next try
      │ third time within a minute: quarantined, a minute
      │ fifth time within ten minutes: held, ten minutes
      ▼
    one try at the end of the pause; while tries end before they were steady, the same pause again

What makes workers die is mostly there to stay (a damaged file, too little memory), and each try
costs seconds of all cores; so the gateway looks again, ever more rarely, and says why meanwhile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

BACKOFF_S = (0.1, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The first is near to nothing: requests wait, and most often it was one bad moment."""
STEADY_S = 60.0
"""A worker that was up for so long has proved itself: the next end is a first one again."""
QUARANTINE_AFTER, QUARANTINE_WINDOW_S, QUARANTINE_S = 3, 60.0, 60.0
HOLD_AFTER, HOLD_WINDOW_S, HOLD_S = 5, 600.0, 600.0

State: TypeAlias = Literal["waiting", "quarantined", "held"]


@dataclass(frozen=True, slots=True)
class Pause:
    """How long nothing is started, and how an operator is told."""

    seconds: float
    state: State
    said: str = ""


class Restarts:
    """The ends of one engine's workers, so far as they matter."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=HOLD_AFTER)
        self._streak = 0
        self._shut: Pause | None = None

    def ended(self, now: float, lived_s: float) -> Pause:
        """A worker has ended, unasked, after it was up for `lived_s` (0: it never was)."""
        if lived_s >= STEADY_S:
            self._streak, self._shut = 0, None
        self._streak += 1
        self._ends.append(now)
        if self._within(HOLD_WINDOW_S, now) >= HOLD_AFTER:
            said = f"held after {HOLD_AFTER} failures in {HOLD_WINDOW_S / 60:g} minutes"
            self._shut = Pause(HOLD_S, "held", said)
        elif self._shut is None and self._within(QUARANTINE_WINDOW_S, now) >= QUARANTINE_AFTER:
            said = f"quarantined after {QUARANTINE_AFTER} failures in {QUARANTINE_WINDOW_S:g} s"
            self._shut = Pause(QUARANTINE_S, "quarantined", said)
        if self._shut is not None:
            return self._shut
        return Pause(BACKOFF_S[min(self._streak, len(BACKOFF_S)) - 1], "waiting")

    def _within(self, window_s: float, now: float) -> int:
        return sum(now - end < window_s for end in self._ends)
