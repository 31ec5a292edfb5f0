"""Where the events of an answer go. Who has them ready hands them over; nobody has to be woken."""

from __future__ import annotations

from typing import Protocol

from gateway.core.chat import Completion
from gateway.core.events import Collector, Document, Event


class Sink(Protocol):
    """Takes an answer's events, one at a time, from one stream.

    `put` and `flush` do not wait, so a callback of the loop may call them.
    """

    def put(self, event: Event) -> None:
        """The next event. It may go out at once or with the next `flush`."""

    def flush(self) -> None:
        """What was put goes out: to be called once for all that came at the same time."""

    def hand(self, event: Event) -> bool:
        """Put one that came alone and flush. Whether there is room for more: the opposite of
        `full`.
        """

    @property
    def full(self) -> bool:
        """Whether the client is behind. Who sees it waits for `room` before it puts more."""

    async def room(self) -> None:
        """Wait until the client has caught up."""


class Whole:
    """A sink that keeps everything, for an answer that goes in one piece."""

    full = False

    def __init__(self) -> None:
        self._collector = Collector()
        self.frame: bytes | None = None
        """The answer's own bytes, where it came whole and in the client's dialect."""

    def put(self, event: Event) -> None:
        if isinstance(event, Document):
            self.frame = event.frame
        self._collector.add(event)

    def flush(self) -> None:
        pass

    def hand(self, event: Event) -> bool:
        self.put(event)
        return True

    async def room(self) -> None:
        pass

    def completion(self) -> Completion:
        """The answer so far."""
        return self._collector.completion()
