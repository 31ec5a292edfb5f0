"""An engine that is loaded when a job comes, and stays while it has any.

Whoever submits, a request, a drafter or a companion's session, holds the model until its sequence
has ended; so nothing that computes is ever unloaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Tokens
from dataclasses import replace

from backends.engine.client import Engine
from backends.engine.pool import ModelPool
from backends.engine.protocol import Job
from backends.engine.sequence import Sequence
from backends.engine.settings import EngineSettings
from gateway.core.errors import TandemError


class ResidentEngine(Engine):
    """An Engine whose worker's life is the pool's; the pool knows it by `name`.

    `max_wait`: seconds that a job waits for a cold model, or less if its deadline is nearer.
    """

    def __init__(
        self, settings: EngineSettings, *, name: str, pool: ModelPool, max_wait: float
    ) -> None:
        super().__init__(settings, name=name)
        self._pool = pool
        self._max_wait = max_wait

    async def submit(self, job: Job) -> Sequence:
        """Raises ModelLoading if the model is not there in time, and what Engine.submit raises."""
        clock = asyncio.get_running_loop().time
        asked = clock()
        patience = self._max_wait if job.deadline is None else min(job.deadline, self._max_wait)
        await self._pool.enter(self._name, patience)
        if job.deadline is not None:
            job = replace(job, deadline=job.deadline - (clock() - asked))
        try:
            return await super().submit(job)
        except TandemError:
            self._pool.leave(self._name)
            raise

    async def embed(self, texts: Tokens[Tokens[int]]) -> tuple[bytes, ...]:
        """Raises ModelLoading too."""
        await self._pool.enter(self._name, self._max_wait)
        try:
            return await super().embed(texts)
        finally:
            self._pool.leave(self._name)

    def _forget(self, id: int) -> None:
        held = id in self._sequences
        super()._forget(id)
        if held:
            self._pool.leave(self._name)
