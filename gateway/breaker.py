"""A circuit breaker per upstream: closed, open, or half-open with one probe. Pure; time comes in.

Five failures in a row open it (Envoy's outlier default) for 5 s, doubling up to 300 s while probes
fail. A 429 is not a failure: it cools the upstream until the moment its headers named.
"""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 5
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
PROBE_LIMIT_S = 60.0
"""A probe that never reported back (its request was cancelled, say) frees its place after this."""


@dataclass(slots=True)
class Breaker:
    """State of one upstream. Times are monotonic seconds."""

    failures: int = 0
    pause_s: float = 0.0
    open_until: float = 0.0
    cool_until: float = 0.0
    probe_since: float | None = None

    @property
    def closed(self) -> bool:
        return self.pause_s == 0.0

    def allows(self, now: float) -> bool:
        """Advice for routing: whether a request may be tried now. Changes nothing."""
        if now < self.cool_until:
            return False
        if self.closed:
            return True
        probing = self.probe_since is not None and now < self.probe_since + PROBE_LIMIT_S
        return now >= self.open_until and not probing

    def enter(self, now: float) -> bool:
        """Take the right to try; of many callers of a half-open breaker one gets it."""
        if not self.allows(now):
            return False
        if not self.closed:
            self.probe_since = now
        return True

    def succeeded(self) -> None:
        self.failures = 0
        self.pause_s = 0.0
        self.probe_since = None

    def failed(self, now: float) -> None:
        self.failures += 1
        self.probe_since = None
        if not self.closed or self.failures >= THRESHOLD:
            self.pause_s = min(max(self.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.open_until = now + self.pause_s

    def abandoned(self) -> None:
        """The try ended without a verdict: its client left."""
        self.probe_since = None

    def cool(self, until: float) -> None:
        self.cool_until = max(self.cool_until, until)
        self.probe_since = None
