"""A race: a second upstream is asked when the first is slow to begin, and who begins first answers.

    0 ─────── after ──────────────────▶
    first ····································· cancelled, accounted
              second ····· content ═══════════▶ the answer

Only content wins: an error, an empty answer or a stream of nothing but [DONE] never does. A copy
costs money, so it is sent late (by default when nineteen of twenty answers would have begun),
within a cap per hour, and never for several choices or tools (operations.md 2.1). A failed upstream
is replaced at once; that is a fallback, not a copy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field

from backends.base import Backend, Health, Options, Resources, part_of
from backends.combined import any_health, combined, dearest, most_tokens
from gateway.core.chat import ChatRequest, Feature, Usage
from gateway.core.errors import TandemError, UpstreamBroken
from gateway.core.events import Answered, Event, Finish, PartReport, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Tier, Upstream

UNKNOWN_S = 1.0
"""How long to wait for the first before its habits are known."""
SAMPLES = 100
ENOUGH = 10
HOUR_S = 3600.0
BYTES_PER_TOKEN = 4


class RaceOptions(Options):
    """A config entry of kind race.

    `of`: upstreams, the preferred first. `after`: when the next one is asked, in seconds, or
    `p95_ttft`. `spend_cap_usd_per_hour` bounds what copies that lost may cost; where a price is
    unknown and there is a cap, no copy is sent.
    """

    of: tuple[str, ...] = Field(min_length=2, max_length=4)
    after: Literal["p95_ttft"] | float = "p95_ttft"
    spend_cap_usd_per_hour: float | None = Field(default=None, ge=0)


@dataclass(slots=True, eq=False)
class _Runner:
    """One upstream in a race, and what it said before it was known who wins."""

    upstream: Upstream
    started: float
    stream: AsyncGenerator[Event, None]
    held: list[Event] = field(default_factory=list)

    async def until_content(self) -> bool:
        """Whether it has begun an answer that says something."""
        async for event in self.stream:
            self.held.append(event)
            if is_content(event) and not isinstance(event, Finish):
                return True
        return False

    @property
    def ended_well(self) -> bool:
        return any(isinstance(event, Finish) for event in self.held)


class RaceBackend:
    """Several upstreams as one, as fast as the one that begins first."""

    options_model: ClassVar[type[Options]] = RaceOptions

    def __init__(
        self,
        name: str,
        options: RaceOptions,
        resources: Resources,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._options = options
        self._parts = {part: part_of(resources.backends, part, name) for part in options.of}
        self._clock = clock
        self._begun_after: deque[float] = deque(maxlen=SAMPLES)
        self._spent: deque[tuple[float, float]] = deque()

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, RaceOptions)
        return options.of

    @property
    def upstream(self) -> Upstream:
        """What all can do, at the price of the dearest: any may be the one that answers."""
        whole = combined(self._name, self._options, self._parts.values())
        price = whole.price or dearest([part.upstream for part in self._parts.values()])
        return replace(whole, price=price)

    async def start(self) -> None:
        """Nothing: the parts start themselves."""

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        lost: list[PartReport] = []
        running: dict[asyncio.Task[bool], _Runner] = {}
        try:
            winner = await self._race(request, call, running, lost)
            async with aclosing(winner.stream):
                lost += await self._stop(running, request)
                yield Answered(upstream=winner.upstream)
                for report in lost:
                    yield report
                for event in winner.held:
                    yield event
                async for event in winner.stream:
                    yield event
        finally:
            await self._stop(running, request)

    async def _race(
        self,
        request: ChatRequest,
        call: Call,
        running: dict[asyncio.Task[bool], _Runner],
        lost: list[PartReport],
    ) -> _Runner:
        """Who begins first. Those in `running` are still to be stopped."""
        waiting = list(self._parts.values())
        empty: _Runner | None = None
        last: TandemError | None = None
        while True:
            if not running:
                if not waiting:
                    break
                self._begin(waiting.pop(0), request, call, running)
            copies = bool(waiting) and self._may_copy(request, running.values())
            patience = self._patience() if copies else None
            done, _ = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self._begin(waiting.pop(0), request, call, running)
                continue
            for task in [task for task in running if task in done]:
                runner = running.pop(task)
                try:
                    if task.result():
                        self._note_begun(runner)
                        return runner
                except TandemError as error:
                    lost.append(self._report(runner, "failed", request))
                    if not error.retryable:
                        raise
                    last = error
                else:
                    lost.append(self._report(runner, "empty", request))
                    if empty is None and runner.ended_well:
                        empty = runner
        if empty is not None:
            lost[:] = [report for report in lost if report.upstream != empty.upstream.name]
            return empty
        raise last or UpstreamBroken(f"{self._name!r}: none of its upstreams said anything.")

    def _begin(
        self,
        part: Backend,
        request: ChatRequest,
        call: Call,
        running: dict[asyncio.Task[bool], _Runner],
    ) -> None:
        runner = _Runner(part.upstream, self._clock(), part.stream(request, call))
        running[asyncio.create_task(runner.until_content())] = runner

    async def _stop(
        self, running: dict[asyncio.Task[bool], _Runner], request: ChatRequest
    ) -> list[PartReport]:
        """Cancel who has not won, and say what that cost."""
        stopped = list(running.items())
        running.clear()
        for task, _ in stopped:
            task.cancel()
        try:
            await asyncio.gather(*(task for task, _ in stopped), return_exceptions=True)
        finally:
            # Also if we are cancelled here: one that had begun as well waits in its stream.
            for _, runner in stopped:
                await runner.stream.aclose()
        return [self._report(runner, "cancelled", request) for _, runner in stopped]

    def _report(self, runner: _Runner, result: str, request: ChatRequest) -> PartReport:
        """What a loser read is billed, what it had not yet written is not."""
        now = self._clock()
        usage = Usage(prompt_tokens=-(-request.text_bytes // BYTES_PER_TOKEN), estimated=True)
        billed = result == "cancelled"
        cost = runner.upstream.cost_of(usage) if billed else 0.0
        if cost:
            self._spent.append((now, cost))
        return PartReport(
            upstream=runner.upstream.name,
            result=result,
            seconds=now - runner.started,
            cost_usd=cost,
        )

    def _note_begun(self, runner: _Runner) -> None:
        if runner.upstream.name == self._options.of[0]:
            self._begun_after.append(self._clock() - runner.started)

    def _patience(self) -> float:
        after = self._options.after
        if not isinstance(after, str):
            return after
        if len(self._begun_after) < ENOUGH:
            return UNKNOWN_S
        ordered = sorted(self._begun_after)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]

    def _may_copy(self, request: ChatRequest, running: Iterable[_Runner]) -> bool:
        if Feature.TOOLS in request.features or Feature.N in request.features:
            return False
        cap = self._options.spend_cap_usd_per_hour
        if cap is None:
            return True
        # Of a copy that is sent now, the one that is asked already may be the loser.
        if any(r.upstream.price is None and r.upstream.tier is not Tier.LOCAL for r in running):
            return False
        since = self._clock() - HOUR_S
        while self._spent and self._spent[0][0] < since:
            self._spent.popleft()
        return sum(cost for _, cost in self._spent) < cap

    async def count(self, request: ChatRequest) -> int | None:
        return await most_tokens(self._parts.values(), request)

    async def health(self) -> Health:
        return await any_health(self._parts.values())

    async def aclose(self) -> None:
        """Nothing: the parts are not this backend's."""
