"""The order of the queue, with a clock of our own."""

from __future__ import annotations

from collections import Counter

from backends.engine.protocol import Job
from backends.engine.waiting import AGEING_S, DRAIN_S, RETRY_S, DrainRate, Waiting


def job(id: int, *, priority: int = 1, tenant: str = "a", deadline: float | None = None) -> Job:
    return Job(
        id=id, tokens=(1,), max_tokens=9, priority=priority, tenant=tenant, deadline=deadline
    )


def test_waiting_raises_the_class() -> None:
    """Batch work that has waited for two classes goes before a completion that comes then."""
    waiting = Waiting()
    waiting.push(job(1, priority=2), 0.0)
    waiting.push(job(2, priority=0), AGEING_S)
    assert [each.id for each in waiting.order(AGEING_S)] == [2, 1]
    assert [each.id for each in waiting.order(2 * AGEING_S)] == [1, 2]


def test_tenants_share_tokens() -> None:
    """A tenant with many requests gets no more of the first turns than one with few."""
    waiting = Waiting()
    for id in range(12):
        waiting.push(job(id, tenant="many"), 0.0)
    for id in range(12, 15):
        waiting.push(job(id, tenant="few"), 0.0)
    turns = []
    for _ in range(6):
        first = waiting.order(0.0)[0]
        waiting.admit(first, 10)
        turns.append(first.tenant)
    assert Counter(turns) == {"many": 3, "few": 3}


def test_a_pause_earns_nothing() -> None:
    """Who comes late starts where the others are, not with all the turns it did not take."""
    waiting = Waiting()
    for id in range(10):
        waiting.push(job(id, tenant="early"), 0.0)
    for _ in range(5):
        waiting.admit(waiting.order(0.0)[0], 10)
    for id in range(10, 15):
        waiting.push(job(id, tenant="late"), 0.0)
    turns = []
    for _ in range(4):
        first = waiting.order(0.0)[0]
        waiting.admit(first, 10)
        turns.append(first.tenant)
    assert Counter(turns) == {"early": 2, "late": 2}


def test_deadlines_are_counted_from_arrival() -> None:
    """A job past its deadline is taken out, the others stay."""
    waiting = Waiting()
    waiting.push(job(1, deadline=5.0), 10.0)
    waiting.push(job(2), 10.0)
    assert waiting.expired(14.9) == []
    assert [late.id for late in waiting.expired(15.0)] == [1]
    assert [left.id for left in waiting] == [2]


def test_the_wait_follows_the_drain() -> None:
    """Twice the tokens wait twice as long; without any drain it is the longest wait."""
    drain = DrainRate()
    assert drain.wait(1, 0.0) == RETRY_S[1]
    drain.note(round(100 * DRAIN_S), 1.0)  # a rate of 100 tokens a second
    assert (drain.wait(500, 1.0), drain.wait(1000, 1.0)) == (5.0, 10.0)
    assert drain.wait(1, 1.0) == RETRY_S[0]
