"""A connection to a companion that stands before a session needs it.

TCP, TLS and the Upgrade are two to four round trips, and plain streaming pays none of them: its
connections are kept alive. So when a session has ended, the next one's connection is made; not
while the answer streams, for the handshake would hold up the first drafts. A session has a socket
of its own, as before: one that carried several in turn would have to outlive cancels and cuts in
the middle of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from backends.speculative.session import IDLE_S
from backends.speculative.transport import NoSession, WebSocketTransport

KEPT_S = IDLE_S - 10.0
"""Under what a companion waits for a socket's first word, so that we are the ones who leave."""


class Spare:
    """At most one socket, for as long as `kept_s` seconds; `dial` makes one or raises NoSession."""

    def __init__(
        self, dial: Callable[[], Awaitable[WebSocketTransport]], *, kept_s: float = KEPT_S
    ) -> None:
        self._dial = dial
        self._kept_s = kept_s
        self._ready: WebSocketTransport | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def take(self) -> WebSocketTransport | None:
        """The socket, which is the caller's from now on; None if none stands."""
        ready, self._ready = self._ready, None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return ready if ready is not None and ready.stands else None

    def prepare(self) -> None:
        """Have one made, unless there is one or it is being made."""
        making = self._task is not None and not self._task.done()
        if not (self._closed or making or (self._ready is not None and self._ready.stands)):
            self._task = asyncio.create_task(self._make(), name="spare connection")

    async def aclose(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if (ready := self.take()) is not None:
            await ready.aclose(ended=True)

    async def _make(self) -> None:
        try:
            ready = await self._dial()
        except NoSession:
            return  # the next session will hear why
        self._ready = ready
        self._expiry = asyncio.get_running_loop().call_later(self._kept_s, self._leave)

    def _leave(self) -> None:
        if (ready := self.take()) is not None:
            self._task = asyncio.create_task(ready.aclose(ended=True), name="leaving a companion")
