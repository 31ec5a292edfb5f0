"""What resilience knows of an upstream, for the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamVitals:
    """`breaker`: 0 closed, 1 open, 2 half-open. `opened` counts; `retry_budget` is 0 to 1."""

    breaker: int
    opened: int
    retry_budget: float
    concurrency_limit: float
    waiting: int
