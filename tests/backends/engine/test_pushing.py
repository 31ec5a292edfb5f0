"""The engine's steps, put into a sink from within its reader."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.options import LlamaCppOptions
from gateway.core.chat import ChatRequest, Endpoint, Sampling
from gateway.core.errors import EngineFailed
from gateway.core.events import Event, TextDelta, collect
from gateway.core.exchange import Call
from gateway.core.sink import Whole
from tests.fakes.harness import Kept, run

CALL = Call(id="test")


def request(tokens: int, **more: Any) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.COMPLETION,
        dialect="test",
        model="local",
        prompt="Once upon a time",
        sampling=Sampling(max_tokens=tokens, temperature=0.0),
        body=more,
    )


@asynccontextmanager
async def running(model: Path) -> AsyncIterator[LlamaCppBackend]:
    options = LlamaCppOptions(kind="llama_cpp", model=str(model))
    backend = LlamaCppBackend("local", options, Resources())
    try:
        await backend.start()
        yield backend
    finally:
        await backend.aclose()


async def pushed(backend: LlamaCppBackend, asked: ChatRequest, kept: Kept) -> None:
    """The first event pulled, and the sink sent for each further one, as the relay does it."""
    stream = cast(Any, backend.stream(asked, CALL))
    try:
        kept.put(await anext(stream))
        while True:
            kept.put(await stream.asend(kept))
    except StopAsyncIteration:
        pass
    finally:
        await stream.aclose()


def told(story: Callable[[LlamaCppBackend], Awaitable[None]], model: Path) -> None:
    async def main() -> None:
        async with running(model) as backend:
            await story(backend)

    run(main())


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("choices", [1, 2])
def test_the_same_whichever_way(stories: Path, choices: int) -> None:
    """Text, end and usage are those of a stream that is pulled, of one choice and of several."""

    async def story(backend: LlamaCppBackend) -> None:
        asked = request(40, n=choices)
        said = await collect(backend.stream(asked, CALL))
        kept = Kept()
        await pushed(backend, asked, kept)
        whole = Whole()
        for event in kept.events:
            whole.put(event)
        assert whole.completion() == said
        assert len(said.choices) == choices

    told(story, stories)


def test_who_is_behind_is_waited_for(stories: Path) -> None:
    """While the sink is full nothing is put there; afterwards nothing is missing."""

    async def story(backend: LlamaCppBackend) -> None:
        asked = request(200)
        said = await collect(backend.stream(asked, CALL))
        kept = Kept()
        kept.behind = True
        going = asyncio.create_task(pushed(backend, asked, kept))
        while not kept.waited:
            await asyncio.sleep(0)
        before = len(kept.events)
        await asyncio.sleep(0.1)
        assert len(kept.events) == before < 10
        kept.behind = False
        await going
        assert text(kept.events) == said.choices[0].text

    told(story, stories)


def test_a_sink_that_fails(stories: Path) -> None:
    """What the sink raises ends that answer alone: the engine goes on with others."""

    class Full(Kept):
        def put(self, event: Event) -> None:
            if len(self.events) == 5:
                raise RuntimeError("no more")
            super().put(event)

    async def story(backend: LlamaCppBackend) -> None:
        beside = asyncio.create_task(collect(backend.stream(request(40), CALL)))
        with pytest.raises(RuntimeError, match="no more"):
            await pushed(backend, request(200), Full())
        assert (await beside).choices[0].finish_reason == "length"
        assert (await backend.health()).ok

    told(story, stories)


def test_a_worker_that_dies(stories: Path) -> None:
    """What it said is put, and then the stream fails as one that is pulled does."""

    async def story(backend: LlamaCppBackend) -> None:
        class Fatal(Kept):
            def put(self, event: Event) -> None:
                super().put(event)
                if len(self.events) == 5:
                    assert backend.engine.pid is not None
                    os.kill(backend.engine.pid, signal.SIGKILL)

        kept = Fatal()
        with pytest.raises(EngineFailed):
            await pushed(backend, request(400), kept)
        assert len(kept.events) >= 5

    told(story, stories)
