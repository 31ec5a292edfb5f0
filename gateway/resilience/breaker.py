"""A circuit breaker per upstream: closed, open, or half-open with one probe.

Five failures in a row open it (Envoy's outlier default), and so does half of at least twenty
attempts in thirty seconds, which catches what fails every other time. It stays open for 5 s, and
twice as long after each failed probe, up to 300 s; jitter keeps replicas from probing together. A
429 is not a failure: it cools the upstream until the moment its headers named.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

THRESHOLD = 5
WINDOW_S = 30.0
LEAST = 20
SHARE = 0.5
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
JITTER = 0.2
"""A pause is up to so much longer than said."""
PROBE_LIMIT_S = 60.0
"""A probe that never reported back (its request was cancelled, say) frees its place after this."""
PANIC_S = 1.0
"""When every upstream of a request is open, one of them is probed this often all the same."""


@dataclass(slots=True)
class Breaker:
    """State of one upstream. Times are monotonic seconds; `jitter` gives numbers from 0 to 1."""

    failures: int = 0
    pause_s: float = 0.0
    open_until: float = 0.0
    cool_until: float = 0.0
    probe_since: float | None = None
    probed_at: float = float("-inf")
    opened: int = 0
    """How often it opened, for the metrics."""
    jitter: Callable[[], float] = random.random
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=200))
    """(when, whether it failed) of the last attempts."""

    @property
    def closed(self) -> bool:
        return self.pause_s == 0.0

    def rested(self, now: float) -> bool:
        """Nothing is the matter: it is closed, and nobody asked for a pause."""
        return self.pause_s == 0.0 and now >= self.cool_until

    def allows(self, now: float) -> bool:
        """Advice for routing: whether a request may be tried now. Changes nothing."""
        if now < self.cool_until:
            return False
        return self.closed or (now >= self.open_until and not self._probing(now))

    def may_panic(self, now: float) -> bool:
        """Whether an open one may be probed before its time, there being no other."""
        if now < self.cool_until or self.closed or self._probing(now):
            return False
        return now >= self.probed_at + PANIC_S

    def enter(self, now: float, *, panic: bool = False) -> bool:
        """Take the right to try; of many callers of a half-open breaker one gets it."""
        if not (self.allows(now) or (panic and self.may_panic(now))):
            return False
        if not self.closed:
            self.probe_since = self.probed_at = now
        return True

    def succeeded(self, now: float) -> None:
        self.failures = 0
        self.probe_since = None
        if not self.closed:
            self.pause_s = 0.0
            self.recent.clear()
        self.recent.append((now, False))

    def failed(self, now: float) -> None:
        self.failures += 1
        self.probe_since = None
        self.recent.append((now, True))
        if not self.closed or self.failures >= THRESHOLD or self._too_often(now):
            self.opened += self.closed
            self.pause_s = min(max(self.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.open_until = now + self.pause_s * (1 + JITTER * self.jitter())
            self.probed_at = now

    def abandoned(self) -> None:
        """The try ended without a verdict: its client left."""
        self.probe_since = None

    def cool(self, until: float) -> None:
        self.cool_until = max(self.cool_until, until)
        self.probe_since = None

    def rests_for(self, now: float) -> float:
        """Seconds until a request may be tried again."""
        until = max(self.cool_until, 0.0 if self.closed else self.open_until)
        return max(0.0, until - now)

    def _probing(self, now: float) -> bool:
        return self.probe_since is not None and now < self.probe_since + PROBE_LIMIT_S

    def _too_often(self, now: float) -> bool:
        while self.recent and self.recent[0][0] < now - WINDOW_S:
            self.recent.popleft()
        failed = sum(bad for _, bad in self.recent)
        return len(self.recent) >= LEAST and failed >= SHARE * len(self.recent)
