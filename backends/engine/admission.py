"""Who may come in, and who is next: the queue, those that were parked, and what they would need.

A sequence is admitted when a slot is free and its reservation (the prompt and a share of
`max_tokens`) fits beside those of the others. The queue's order is waiting.py's; a small request
does not overtake the next.

Reservations grow with their sequences; when they no longer fit, the youngest of the lowest class is
parked: it gives its cells up, keeps its tokens and its sampler, and is fed again from the start,
before any of the queue, when there is room for all of it. So a decode never runs out of cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from backends.engine.cells import Cells
from backends.engine.protocol import INVALID, TOO_LONG, Job
from backends.engine.slots import Limits, Slot, Stats
from backends.engine.waiting import DrainRate, Waiting

GROWTH = 32
"""Cells that a reservation grows by at once."""


class Admission:
    """`vocab` is the model's, in tokens."""

    def __init__(
        self, cells: Cells, limits: Limits, stats: Stats, vocab: int, clock: Callable[[], float]
    ) -> None:
        self._cells = cells
        self._limits = limits
        self._stats = stats
        self._vocab = vocab
        self._clock = clock
        self._queue = Waiting()
        self._drain = DrainRate()
        self._parked: list[Slot] = []

    def __len__(self) -> int:
        """How many wait, for their first turn or for room."""
        return len(self._queue) + len(self._parked)

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._limits.queue

    @property
    def queued(self) -> Iterator[Job]:
        return iter(self._queue)

    @property
    def parked(self) -> tuple[Slot, ...]:
        return tuple(self._parked)

    def refusal(self, job: Job) -> str | None:
        """Why a job can never be taken; None if it can."""
        limits = self._limits
        if not job.tokens or job.max_tokens < 1:
            return f"{INVALID}: a job has a prompt and room for a token"
        if not all(0 <= token < self._vocab for token in job.tokens):
            return f"{INVALID}: token ids are 0 to {self._vocab - 1}"
        if job.role != "generate" and not limits.verify:
            return f"{INVALID}: sequences of this model cannot be rewound, so it cannot speculate"
        if job.scored and job.strict:
            return f"{INVALID}: the prompt of a strict sequence is not scored"
        need = _need(job)
        if need > limits.context or need > limits.cells:
            return f"{TOO_LONG}: {need} tokens, the context has {limits.context}"
        return None

    def push(self, job: Job) -> None:
        self._queue.push(job, self._clock())

    def remove(self, id: int) -> Job | None:
        """Take a job out of the queue; None if it is not there."""
        return self._queue.remove(id)

    def expired(self) -> list[Job]:
        """Take out those whose deadline has passed."""
        return self._queue.expired(self._clock())

    def next(self) -> Job | Slot | None:
        """Whose turn it is now: a parked one, or the queue's first if it fits."""
        slots, room = self._cells.slots, self._cells.room
        if len(slots) >= self._limits.slots:
            return None
        if self._parked:
            return self._parked[0] if self._parked[0].whole <= room else None
        for job in self._queue.order(self._clock()) if self._queue else ():
            if not self._cells.awaits(job):
                return job if self.reservation(job) <= room else None
        return None

    def take(self, job: Job) -> None:
        """Its turn has come: out of the queue, and charged to its tenant."""
        self._queue.admit(job, _need(job))

    def reservation(self, job: Job) -> int:
        """Cells that a job gets at first."""
        if job.strict:
            return _need(job)
        return len(job.tokens) + max(1, math.ceil(job.max_tokens * self._limits.optimism))

    def grow(self) -> None:
        """Make reservations hold what the next step feeds; park somebody if they cannot."""
        cells = self._cells
        order = sorted(cells.slots.values(), key=lambda s: (s.job.priority, s.job.id))
        for slot in order:
            if slot.job.id not in cells.slots:
                continue
            need = min(slot.whole, len(slot.tokens) + self._limits.verify + 1)
            if need <= slot.reserved:
                continue
            while need - slot.reserved > cells.room:
                victim = self._victim(slot)
                self._park(victim)
                if victim is slot:
                    break
            else:
                wanted = max(need, min(slot.whole, need + GROWTH))
                slot.reserved += min(cells.room, wanted - slot.reserved)
        cells.trim()

    def unpark(self, slot: Slot) -> None:
        self._parked.remove(slot)

    def drained(self, slot: Slot) -> None:
        """One has ended: so fast do they go."""
        self._drain.note(slot.whole, self._clock())

    def retry_after(self) -> float:
        """Seconds until the queue may have a place, by how fast it has drained."""
        running = sum(slot.whole - slot.fed for slot in self._cells.slots.values())
        return self._drain.wait(running + self._queue.tokens, self._clock())

    def _victim(self, growing: Slot) -> Slot:
        """The youngest of the lowest class; never a strict one, whose batches must not change."""
        victims = [slot for slot in self._cells.slots.values() if not slot.job.strict]
        return max(victims, key=lambda s: (s.job.priority, s.job.id), default=growing)

    def _park(self, slot: Slot) -> None:
        self._stats.preemptions += 1
        self._cells.clear(slot)
        slot.sequence, slot.fed, slot.reserved, slot.parked = -1, 0, 0, True
        slot.audit = None  # the row that it means is gone, and the next one fed would be judged
        self._parked.append(slot)
        self._parked.sort(key=lambda s: (s.job.priority, s.job.id))


def _need(job: Job) -> int:
    return len(job.tokens) + job.max_tokens
