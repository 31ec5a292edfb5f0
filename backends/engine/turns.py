"""How long a job that came now would wait for its turn: learnt from how long earlier turns took.

Counted here and not asked of the worker, since a routing decision has microseconds. The worker's
own order (priorities, fairness) is another, so this is an estimate of a usual job's wait.
"""

from __future__ import annotations

from collections.abc import Callable

SMOOTHING = 0.2
LEAST_LEFT = 0.1
"""A turn that lasts longer than usual is taken to need this part of a usual one more."""


class Turns:
    """Of an engine with so many slots. `clock` is monotonic, in seconds."""

    def __init__(self, slots: int, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._clock = clock
        self._running: dict[int, float] = {}
        self._waiting: dict[int, None] = {}
        self.usual_s: float | None = None
        """A turn's length; None before the first has ended."""

    def began(self, id: int) -> None:
        """A job was submitted."""
        if len(self._running) < self._slots:
            self._running[id] = self._clock()
        else:
            self._waiting[id] = None

    def ended(self, id: int) -> None:
        """It is over, whether its turn had come or not."""
        self._waiting.pop(id, None)
        since = self._running.pop(id, None)
        if since is None:
            return
        now = self._clock()
        lasted, old = now - since, self.usual_s
        self.usual_s = lasted if old is None else old + SMOOTHING * (lasted - old)
        if self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._running[following] = now

    @property
    def wait_s(self) -> float:
        """0 where a slot is free, and as long as no turn has ever ended."""
        if len(self._running) < self._slots or self.usual_s is None:
            return 0.0
        now, usual = self._clock(), self.usual_s
        left = sorted(
            max(usual - (now - since), LEAST_LEFT * usual) for since in self._running.values()
        )
        rounds, place = divmod(len(self._waiting), self._slots)
        return left[place] + rounds * usual
