"""How many requests may be inside at once; the permit travels with the stream and frees itself.

As it gets full, the least urgent are shed first: batch, then chat, then completions that somebody
types against. What may not leave the machine has the last places to itself, since it cannot go
anywhere else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from gateway.core.chat import Priority
from gateway.core.errors import Draining, Overloaded

SHARES: Mapping[Priority, float] = {
    Priority.COMPLETION: 0.95,
    Priority.CHAT: 0.9,
    Priority.BATCH: 0.75,
}
"""Of all places, how many may be taken when one of this class comes in."""
RESERVED = 0.05
"""Beyond that, for requests that must stay on the machine."""


class Permit:
    """A place inside. `release` is idempotent, so that every exit may call it."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        if self._admission is not None:
            self._admission.inside -= 1
            self._admission = None


class Admission:
    """Counts the requests inside; refuses above `limit`, and everything while draining."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = {
            (priority, local): math.ceil(limit * (share + (RESERVED if local else 0)))
            for priority, share in SHARES.items()
            for local in (False, True)
        }
        self.inside = 0
        self.draining = False
        self.over = False
        """The grace of draining has passed: what is still inside is being cut."""

    def enter(self, priority: Priority = Priority.CHAT, *, local: bool = False) -> Permit:
        """`local`: it may not leave the machine.

        Raises Overloaded where its class has no place, Draining once draining has begun.
        """
        if self.draining:
            raise Draining()
        if self.inside >= self._places[priority, local]:
            raise Overloaded(
                f"The gateway already serves {self.inside} requests.",
                code="too_many_requests",
                retry_after=1,
            )
        self.inside += 1
        return Permit(self)

    def verdict(self, caught: BaseException) -> BaseException:
        """What ended a request: once the grace is over, a cancellation is ours and says so."""
        if self.over and isinstance(caught, asyncio.CancelledError | GeneratorExit):
            return Draining(cut=True)
        return caught
