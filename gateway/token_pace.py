"""How fast each upstream says its tokens, lately: for explanations of what would have been."""

from __future__ import annotations

from gateway.core.exchange import ExchangeRecord

SMOOTHING = 0.2
MOST = 1024
"""Upstreams; a configuration has fewer, but reloads may bring ever new names."""


class TokenPaces:
    """A moving average of the seconds between two tokens, by upstream."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def see(self, record: ExchangeRecord) -> None:
        seen = record.inter_token_s
        if seen is None:
            return
        old = self._seconds.get(record.upstream)
        if old is None and len(self._seconds) >= MOST:
            return
        self._seconds[record.upstream] = seen if old is None else old + SMOOTHING * (seen - old)

    def of(self, upstream: str) -> float | None:
        return self._seconds.get(upstream)
