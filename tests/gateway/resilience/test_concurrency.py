"""The limit follows the time to first token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.resilience.concurrency import FIRST, LEAST, MOST, ConcurrencyLimit


def test_grows_while_it_is_used_and_fast() -> None:
    """At a steady time to first token a full limit grows, an unused one stays."""
    used, unused = ConcurrencyLimit(), ConcurrencyLimit()
    for _ in range(5000):
        used.waiting = int(used.limit)
        used.see(0.2)
        unused.see(0.2)
    assert used.limit > 2 * FIRST
    assert unused.limit == FIRST


def test_shrinks_when_requests_begin_to_queue() -> None:
    """Ten times the usual time to first token brings the limit down, and it comes back."""
    limit = ConcurrencyLimit(limit=150)
    for _ in range(100):
        limit.waiting = int(limit.limit)
        limit.see(0.2)
    high = limit.limit
    for _ in range(400):
        limit.see(2.0)
    low = limit.limit
    assert low < high / 2
    for _ in range(4000):
        limit.waiting = int(limit.limit)
        limit.see(0.2)
    assert limit.limit > high * 0.9


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.integers(0, 300)), max_size=300))
def test_stays_within_bounds(samples: list[tuple[float, int]]) -> None:
    """Nothing that is reported takes the limit out of its bounds."""
    limit = ConcurrencyLimit()
    for seconds, waiting in samples:
        limit.waiting = waiting
        limit.see(seconds)
        assert LEAST <= limit.limit <= MOST
