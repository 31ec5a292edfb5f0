"""Who of the waiting goes next: class, then the tenant that had least, then arrival.

A class is a job's priority, less one for every `ageing_s` seconds waited, so that batch work is
delayed by chat but never for ever. Within a class tenants share tokens, not turns (start-time fair
queueing): each has a virtual time that its admitted tokens move on, and one who comes back from a
pause starts where the others are, since a pause earns nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from backends.engine.protocol import Job

AGEING_S = 10.0
DRAIN_S = 30.0
"""The drain rate looks back about so far."""
RETRY_S = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Entry:
    job: Job
    arrived: float
    number: int


class Waiting:
    """The queue. Short by its bound, so order is found by looking at all of it."""

    def __init__(self, ageing_s: float = AGEING_S) -> None:
        self._ageing_s = ageing_s
        self._entries: dict[int, _Entry] = {}
        self._numbers = itertools.count()
        self._served: dict[str, float] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Job]:
        return (entry.job for entry in self._entries.values())

    @property
    def tokens(self) -> int:
        return sum(len(job.tokens) + job.max_tokens for job in self)

    def push(self, job: Job, now: float) -> None:
        # What an absent tenant had long ago is forgotten once everybody has had as much.
        self._served = {t: v for t, v in self._served.items() if v > self._floor}
        self._entries[job.id] = _Entry(job, now, next(self._numbers))

    def remove(self, id: int) -> Job | None:
        entry = self._entries.pop(id, None)
        return entry.job if entry else None

    def order(self, now: float) -> list[Job]:
        """All, the next first."""
        return [
            entry.job for entry in sorted(self._entries.values(), key=lambda e: self._key(e, now))
        ]

    def _key(self, entry: _Entry, now: float) -> tuple[int, float, int]:
        aged = int((now - entry.arrived) / self._ageing_s)
        served = max(self._floor, self._served.get(entry.job.tenant, 0.0))
        return max(0, entry.job.priority - aged), served, entry.number

    def admit(self, job: Job, tokens: int) -> None:
        """Take a job out, and charge its tenant."""
        del self._entries[job.id]
        start = max(self._floor, self._served.get(job.tenant, 0.0))
        self._floor = start
        self._served[job.tenant] = start + tokens

    def expired(self, now: float) -> list[Job]:
        """Take out those whose deadline has passed."""
        late = [
            entry.job
            for entry in self._entries.values()
            if entry.job.deadline is not None and now - entry.arrived >= entry.job.deadline
        ]
        for job in late:
            del self._entries[job.id]
        return late


class DrainRate:
    """Tokens of finished jobs per second, older ones fading; what a Retry-After is made of."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._at = 0.0

    def note(self, tokens: int, now: float) -> None:
        self._sum = self._faded(now) + tokens
        self._at = now

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until so many tokens have drained, whole, within RETRY_S."""
        rate = self._faded(now) / DRAIN_S
        low, high = RETRY_S
        return high if rate * high <= tokens else max(low, float(math.ceil(tokens / rate)))

    def _faded(self, now: float) -> float:
        return self._sum * math.exp((self._at - now) / DRAIN_S)
