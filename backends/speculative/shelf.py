"""The companion's sessions by id: those that have a socket, and those that wait for their next one.

Waiting is bounded in time and in number, since a halted sequence holds its cells: the one that has
waited longest goes first, and before it those whose answer is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.speculative.seams import Ended
from backends.speculative.session import KEPT_S, VERSION, Resume
from backends.speculative.verify import VerifySession
from gateway.core.errors import InvalidRequest, NotFound
from gateway.core.exchange import Caller

MAX_KEPT = 4


class Shelf:
    """`ended` hears of each session once, when nobody can resume it any more."""

    def __init__(
        self,
        ended: Callable[[Ended], None],
        *,
        kept_s: float = KEPT_S,
        most: int = MAX_KEPT,
    ) -> None:
        self._ended = ended
        self._kept_s = kept_s
        self._most = most
        self._known: dict[str, VerifySession] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}  # the longest waiting first
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def served(self) -> tuple[VerifySession, ...]:
        return tuple(self._known.values())

    def put(self, session: VerifySession) -> None:
        """A new session, which has a socket."""
        self._known[session.id] = session

    def find(self, id: str) -> VerifySession | None:
        return self._known.get(id)

    def claim(self, resume: Resume, caller: Caller) -> VerifySession:
        """The session that may go on over another socket. Raises InvalidRequest or NotFound."""
        if resume.v != VERSION:
            raise InvalidRequest(
                f"This companion speaks version {VERSION}.", code="version_mismatch"
            )
        session = self._known.get(resume.session)
        if session is None or not session.may_resume(caller, resume):
            raise NotFound("No such session.")
        self._unshelve(session.id)
        return session

    def keep(self, session: VerifySession) -> None:
        """Its socket broke: let it wait for another one."""
        loop = asyncio.get_running_loop()
        self._unshelve(session.id)
        self._waiting[session.id] = loop.call_later(self._kept_s, self._expire, session)
        while len(self._waiting) > self._most:
            ids = sorted(self._waiting, key=lambda id: not self._known[id].finished)
            self._expire(self._known[ids[0]])

    async def end(self, session: VerifySession) -> None:
        """It is over."""
        self._unshelve(session.id)
        if self._known.pop(session.id, None) is not None:
            self._ended(await session.aclose())

    def clear(self) -> None:
        """End those that wait: nobody can come back to a companion that leaves."""
        for id in tuple(self._waiting):
            self._expire(self._known[id])

    def _unshelve(self, id: str) -> None:
        timer = self._waiting.pop(id, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, session: VerifySession) -> None:
        self._unshelve(session.id)
        task = asyncio.get_running_loop().create_task(self.end(session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
