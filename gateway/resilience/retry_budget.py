"""How much of an upstream's load may be attempts that failed elsewhere first.

A healthy upstream takes every fallback: that is what it is there for. One that fails or throttles
takes few, or a burst of errors would come to all upstreams twice and three times. Healthy is
gRPC's bucket (A6: a failure costs 1, a success gives 0.1, above half of 10 it is open); what the
others take is Envoy's share (20% of what is active, three at least).
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKET = 10.0
GAIN = 0.1
SHARE = 0.2
LEAST = 3
MOST_ATTEMPTS = 3
"""Upstreams that one request may try, whatever the budgets."""


@dataclass(slots=True)
class RetryBudget:
    """Of one upstream. `active` and `retries` are attempts under way."""

    tokens: float = BUCKET
    active: int = 0
    retries: int = 0

    @property
    def healthy(self) -> bool:
        return self.tokens > BUCKET / 2

    @property
    def remaining(self) -> float:
        """From 1 (untouched) down to 0, for the metrics."""
        return self.tokens / BUCKET

    def begin(self, *, retry: bool) -> bool:
        """Start an attempt; False if it is one retry too many."""
        if retry and not self.healthy and self.retries >= max(LEAST, SHARE * self.active):
            return False
        self.active += 1
        self.retries += retry
        return True

    def end(self, *, retry: bool, failed: bool | None) -> None:
        """End what `begin` let through. `failed` None: nobody can tell."""
        self.active -= 1
        self.retries -= retry
        if failed is not None:
            gain = -1.0 if failed else GAIN
            self.tokens = min(BUCKET, max(0.0, self.tokens + gain))
