"""How long an attempt may wait for its upstream: four clocks, and the timer that looks at them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gateway.core.errors import UpstreamTimeout
from gateway.core.exchange import Call

T = TypeVar("T")


class Timeouts(BaseModel):
    """Seconds. `first_content` and `idle` count content only: no headers, role chunk or comment.

    `document` bounds an answer that comes whole, whose headers wait for its last token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect: float = Field(default=2.0, gt=0)
    first_content: float = Field(default=60.0, gt=0)
    idle: float = Field(default=30.0, gt=0)
    document: float = Field(default=300.0, gt=0)


class Clock:
    """What one attempt may still wait for: first content, idle between contents, total deadline.

    Only waiting for the upstream counts. A slow reader of ours holds the generator, not the clock:
    `restart` is called when it comes back for more. `stop` it at the attempt's end. `now` is the
    monotonic time that deadlines are of.
    """

    def __init__(
        self,
        upstream: str,
        timeouts: Timeouts,
        call: Call,
        *,
        streaming: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._now = now
        self._idle = timeouts.idle
        self._deadline = math.inf if call.deadline is None else call.deadline
        self._first = timeouts.first_content if streaming else timeouts.document
        self._until = now() + self._first
        self._begun = False
        # One timer for the attempt, which looks when it fires: a timer for each wait costs more
        # than the rest of relaying a chunk.
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._fired = False

    def restart(self) -> None:
        """Content has come, and has been taken."""
        self._until = self._now() + self._idle
        self._begun = True

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, step: Awaitable[T]) -> T:
        """Await one step of the upstream's. Raises UpstreamTimeout, having cancelled the step."""
        # Given the loop: to find it, CPython 3.11 asks the kernel for our pid.
        task = asyncio.current_task(self._loop)
        assert task is not None
        before = task.cancelling()
        self._waiting, self._fired = task, False
        if self._timer is None or self._until < self._due:
            self._set()
        try:
            return await step
        except asyncio.CancelledError:
            # Ours, unless somebody else has cancelled the task as well.
            if self._fired and task.uncancel() <= before:
                raise UpstreamTimeout(f"Upstream {self._upstream!r}: {self._why()}.") from None
            raise
        finally:
            self._waiting = None

    def _set(self) -> None:
        self.stop()
        self._due = self._until
        left = min(self._until, self._deadline) - self._now()
        self._timer = self._loop.call_later(max(left, 0.0), self._look)

    def _look(self) -> None:
        """Cancel whoever waits if the time is over; else come back when it may be."""
        self._timer = None
        if self._now() < min(self._until, self._deadline):
            self._set()
        elif self._waiting is not None:
            self._fired = True
            self._waiting.cancel()

    def _why(self) -> str:
        if self._deadline < self._until:
            return "the request's deadline has passed"
        if self._begun:
            return f"no further content within {self._idle:g} s"
        return f"no content within {self._first:g} s"
