"""Where the events of an answer go. Who has them ready hands them over; nobody has to be woken."""

from __future__ import annotations

from typing import Protocol

from gateway.core.events import Event


class Sink(Protocol):
    """Takes an answer's events, one at a time, from one stream.

    `put` and `flush` do not wait, so a callback of the loop may call them.
    """

    def put(self, event: Event) -> None:
        """The next event. It may go out at once or with the next `flush`."""

    def flush(self) -> None:
        """What was put goes out: to be called once for all that came at the same time."""

    @property
    def full(self) -> bool:
        """Whether the client is behind. Who sees it waits for `room` before it puts more."""

    async def room(self) -> None:
        """Wait until the client has caught up."""
