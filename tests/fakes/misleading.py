"""A drafter that is sure of what is wrong: a real model's drafts, each token moved one on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from backends.engine.backend import LlamaCppBackend
from backends.engine.protocol import Job, Output
from backends.speculative.seams import Running
from gateway.core.chat import ChatRequest
from gateway.core.events import Event, TextDelta
from gateway.core.exchange import Call


class Misleading:
    """In a local backend's place. What it is not asked to spoil is the model's own."""

    def __init__(self, model: LlamaCppBackend) -> None:
        self._model = model
        self.engine = _Engine(model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        async with aclosing(self._model.stream(request, call)) as events:
            async for event in events:
                yield (
                    replace(event, text=event.text[::-1]) if isinstance(event, TextDelta) else event
                )


class _Engine:
    def __init__(self, model: LlamaCppBackend) -> None:
        self._model = model

    async def submit(self, job: Job) -> _Sequence:
        return _Sequence(await self._model.engine.submit(job))


class _Sequence:
    def __init__(self, running: Running) -> None:
        self._running = running

    def __aiter__(self) -> AsyncIterator[Output]:
        return self._moved()

    async def _moved(self) -> AsyncIterator[Output]:
        async for output in self._running:
            yield replace(output, tokens=tuple(token ^ 1 for token in output.tokens))

    def draft(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self._running.draft(epoch, base, tokens)

    def sync(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self._running.sync(epoch, base, tokens)

    async def aclose(self) -> None:
        await self._running.aclose()
