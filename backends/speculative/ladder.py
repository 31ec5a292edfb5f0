"""Whether a rung of the ladder holds: probed once for each version of an upstream, off any request.

    unproved ──a request comes──▶ probing ──as it should be──▶ proved
                                     │  ▲                        │ a surprise, then or later
                     nothing learnt, │  │ another version        ▼
                     again later  ◀──┘  └──────────────────── dropped

While it is not proved, requests are answered by plain streaming: nobody waits for a probe, and an
upstream that is never asked is never probed. The probe's words are ours, so no zone is touched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from backends.base import Backend
from backends.speculative.rung import Rung
from backends.speculative.strategies.base import Bill, Declined, Strategy, Surprise
from gateway.core.chat import ChatRequest
from gateway.core.errors import LocalUnavailable, TandemError
from gateway.core.events import Event, SpeculationReport, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Upstream

log = logging.getLogger(__name__)

LOOK_EVERY_S = 300.0
"""How often an upstream in use is asked for its version, which costs no tokens."""
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
"""Between two tries at a probe of which nothing was learnt; it doubles."""
VERSIONS_KEPT = 8


class Ladder:
    """One strategy's proof. Closing it ends a probe that is running."""

    def __init__(self, strategy: Strategy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.strategy = strategy
        self._clock = clock
        self._verdicts: OrderedDict[str, str] = OrderedDict()
        """By version: "" for one that was proved, else what was wrong."""
        self._version: str | None = None
        self._look_at = 0.0
        self._pause = FIRST_PAUSE_S
        self._looking: asyncio.Task[None] | None = None
        self._bill = Bill()
        self._probes = 0

    @property
    def rung(self) -> Rung:
        verdict = self._verdict()
        state = "unproved" if verdict is None else "dropped" if verdict else "proved"
        if verdict is None and self._looking is not None:
            state = "probing"
        return Rung(
            strategy=self.strategy.name,
            state=state,
            reason=verdict or "",
            version=self._version or "",
            probes=self._probes,
            probe_tokens=self._bill.tokens,
        )

    def why_not(self) -> str:
        """ "" if the strategy may be used now, else why not; looks again in the background if it is
        time to.
        """
        if self._looking is None and self._clock() >= self._look_at:
            self._looking = asyncio.create_task(self._look(), name="probe of speculation")
        verdict = self._verdict()
        return "probing" if verdict is None else verdict

    def drop(self, reason: str) -> None:
        """A surprise in the middle of work: this version is not used any more."""
        if self._version is not None:
            log.warning("%s is not used any more: %s", self.strategy.name, reason)
            self._settle(self._version, reason)

    async def settled(self) -> Rung:
        """Once nothing is being found out: for those who would rather wait than not know."""
        self.why_not()
        if self._looking is not None:
            await asyncio.wait([self._looking])
        return self.rung

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _verdict(self) -> str | None:
        return None if self._version is None else self._verdicts.get(self._version)

    async def _look(self) -> None:
        """Is it the version that we know? If not, try it."""
        try:
            version = await self.strategy.version()
            if version not in self._verdicts:
                self._version = None  # what held for another version held for that one
                verdict = await self._tried()
                version = await self.strategy.version()  # an answer may have told more of it
                self._settle(version, verdict)
            self._version = version
            self._verdicts.move_to_end(version)
            self._look_at, self._pause = self._clock() + LOOK_EVERY_S, FIRST_PAUSE_S
        except TandemError as error:
            log.info("%s: nothing learnt of it yet: %s", self.strategy.name, error.message)
            self._look_at = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        finally:
            self._looking = None

    async def _tried(self) -> str:
        bill = Bill()
        self._probes += 1
        try:
            await self.strategy.probe(bill)
        except Surprise as surprise:
            return surprise.reason
        finally:
            self._bill.tokens += bill.tokens
        return ""

    def _settle(self, version: str, verdict: str) -> None:
        self._verdicts[version] = verdict
        while len(self._verdicts) > VERSIONS_KEPT:
            self._verdicts.popitem(last=False)
        log.info("%s: %s", self.strategy.name, verdict or "proved")


async def climb(
    ladder: Ladder, pair: Upstream, target: Backend, request: ChatRequest, call: Call
) -> AsyncGenerator[Event, None]:
    """The answer by the ladder's rung if it holds and takes the request, else the plain stream."""
    if not call.zone.admits(pair.zone):
        raise LocalUnavailable(f"Upstream {pair.name!r} lies outside the request's zone.")
    said = False
    why = ladder.strategy.declines(request) or ladder.why_not()
    if not why:
        try:
            async with aclosing(ladder.strategy.events(request, call)) as events:
                async for event in events:
                    said = said or is_content(event)
                    yield event
            return
        except Declined as declined:
            why = declined.reason
        except Surprise as surprise:
            ladder.drop(surprise.reason)
            if said:
                return  # its answer is whole; the next one goes another way
            why = surprise.reason
    # Said first, for the events that follow may be the target's own frames throughout.
    yield SpeculationReport(strategy=f"stream;{why}")
    async with aclosing(target.stream(request, call)) as plain:
        async for event in plain:
            yield event
