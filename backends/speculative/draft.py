"""The edge's drafter: a draft-role sequence of the local engine, kept in step with the target.

It proposes early and often, each token as soon as it is there: a draft that waits for company comes
too late, for the target never waits. It may die at any moment, for want of memory or of a process;
the target then goes on alone, with the same answer (operations.md, fault 46).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backends.engine.protocol import Job
from backends.speculative.seams import Engine, Running
from backends.speculative.session import Draft
from gateway.core.errors import TandemError


class Drafter:
    """One answer's drafting. `aclose` ends it; `lost` says that it ended by itself."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        *,
        send: Callable[[Draft], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._job = job
        self._send = send
        self._clock = clock
        self._settled: list[int] = []
        self._epoch = 0
        self._running: Running | None = None
        self._busy_s = 0.0
        self._busy_tokens = self._made = 0
        self.lost = False
        self._task = asyncio.create_task(self._run())

    @property
    def draft_s(self) -> float | None:
        """Seconds a token, while the drafter was free to go on."""
        return self._busy_s / self._busy_tokens if self._busy_tokens else None

    @property
    def busy(self) -> tuple[int, float]:
        """Tokens that it made, and the seconds that it worked for them, as far as both are known:
        the first after a wait has no beginning."""
        return self._made, self._busy_s

    def committed(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        """Hear what the target settled, so as to draft behind it."""
        self._settled[base:] = tokens
        self._epoch = epoch
        if self._running is not None and tokens:
            self._running.sync(epoch, base, tokens)

    async def aclose(self) -> None:
        self._task.cancel()
        # Also when we are cancelled ourselves: the task closes its sequence on its way out.
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            running = await self._engine.submit(self._job)
            try:
                if self._settled:
                    running.sync(self._epoch, 0, self._settled)
                self._running = running
                await self._propose(running)
            finally:
                self._running = None
                await running.aclose()
        except TandemError:
            pass  # the answer does not need us
        self.lost = True

    async def _propose(self, running: Running) -> None:
        since: float | None = None
        async for output in running:
            now = self._clock()
            if since is not None:
                self._busy_s += now - since
                self._busy_tokens += len(output.tokens)
            self._made += len(output.tokens)
            if output.finish is not None:
                return
            await self._send(Draft(epoch=output.epoch, base_pos=output.base, tokens=output.tokens))
            lead = output.base + len(output.tokens) - len(self._settled)
            # At its full lead it waits for the target: that time is not its own.
            since = now if lead < self._job.ahead else None
