"""Workers that die: who is told, who is blamed, and when nothing is started any more."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from backends.engine.client import Engine
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.settings import EngineSettings
from gateway.core.errors import EngineFailed, PromptRefused
from tests.fakes.gguf_models import Meta, Tensors, attention_model, write

FATAL, FINE = (3, 4, 5), (6, 7, 8)
NAN_TOKEN = 200


def model(folder: Path, *, spoilt: bool = False) -> Path:
    """A tiny model; `spoilt`: the embedding of NAN_TOKEN is not a number, and nothing else."""
    meta, tensors = _shape()
    path = folder / "model.gguf"
    write(path, meta, tensors)
    if spoilt:
        draws = np.random.default_rng(7).standard_normal(64 * 300) * 0.02
        row = draws.astype(np.float32).astype(np.float16)[64 * NAN_TOKEN :][:64].tobytes()
        raw = path.read_bytes()
        assert raw.count(row) == 1
        path.write_bytes(raw.replace(row, b"\xff" * len(row)))
    return path


def _shape() -> tuple[Meta, Tensors]:
    return attention_model(
        "llama",
        layers=2,
        width=64,
        heads=2,
        kv_heads=1,
        head=32,
        ff=96,
        vocab=300,
        context=4096,
        tied=False,
    )


@asynccontextmanager
async def running(path: Path, **more: object) -> AsyncIterator[Engine]:
    engine = Engine(EngineSettings(model=str(path), slots=2), **more)  # type: ignore[arg-type]
    try:
        await engine.start()
        assert engine.ready is not None, engine.detail
        yield engine
    finally:
        await engine.aclose()


def job(tokens: tuple[int, ...], max_tokens: int = 4, **more: object) -> Job:
    return Job(id=0, tokens=tokens, max_tokens=max_tokens, **more)  # type: ignore[arg-type]


ENDLESS = SamplerSettings(ignore_eos=True)


async def outputs(engine: Engine, asked: Job) -> list[Output]:
    sequence = await engine.submit(asked)
    async with aclosing(sequence):
        return [output async for output in sequence]


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def die_over(engine: Engine, tokens: tuple[int, ...], number: signal.Signals) -> None:
    """Have the worker die while it computes a prompt, and wait until there is a new one."""
    sequence = await engine.submit(job(tokens, 4000, sampler=ENDLESS))
    async with aclosing(sequence):
        await anext(sequence)
        assert engine.pid is not None
        os.kill(engine.pid, number)
        with pytest.raises(EngineFailed):
            async for _ in sequence:
                pass
    await until(lambda: engine.ready is not None)


def test_a_prompt_that_was_there_twice_is_refused(llama_cpp: None, tmp_path: Path) -> None:
    """The third time the client is told, in its own terms, and no worker dies of it; others are
    served."""

    async def main() -> None:
        async with running(model(tmp_path)) as engine:
            await die_over(engine, FATAL, signal.SIGSEGV)
            await die_over(engine, FATAL, signal.SIGABRT)
            with pytest.raises(PromptRefused) as refused:
                await engine.submit(job(FATAL))
            assert (refused.value.status, refused.value.retryable) == (422, True)
            assert str(FATAL[0]) not in refused.value.message
            assert (await outputs(engine, job(FINE)))[-1].finish == "length"
            assert engine.ends == {"crash": 2}

    asyncio.run(main())


def test_who_was_only_waiting_is_not_blamed(llama_cpp: None, tmp_path: Path) -> None:
    """With all slots taken, what waits in the queue when the worker dies had no part in it."""

    async def main() -> None:
        async with running(model(tmp_path)) as engine:
            for _ in range(2):
                busy = [
                    await engine.submit(job((9, i), 4000, sampler=ENDLESS))
                    for i in range(engine.ready.slots if engine.ready else 0)
                ]
                for sequence in busy:
                    await anext(sequence)
                waiting = await engine.submit(job(FINE))
                assert engine.pid is not None
                os.kill(engine.pid, signal.SIGKILL)
                with pytest.raises(EngineFailed):
                    await anext(waiting)
                for sequence in busy:
                    await sequence.aclose()
                await until(lambda: engine.ready is not None)
            assert (await outputs(engine, job(FINE)))[-1].finish == "length"
            with pytest.raises(PromptRefused):
                await engine.submit(job((9, 0)))

    asyncio.run(main())


def test_leaving_does_not_clear_a_prompt_that_hangs(llama_cpp: None, tmp_path: Path) -> None:
    """A client that gives up before the worker is killed leaves its prompt under suspicion."""

    async def main() -> None:
        async with running(model(tmp_path)) as engine:
            for _ in range(2):
                sequence = await engine.submit(job(FATAL, 4000, sampler=ENDLESS))
                await anext(sequence)
                pid = engine.pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                await sequence.aclose()
                await until(lambda pid=pid: engine.pid not in (None, pid))  # type: ignore[misc]
            assert engine.ends == {"hung": 2}
            with pytest.raises(PromptRefused):
                await engine.submit(job(FATAL))

    asyncio.run(main())


def test_three_deaths_in_a_minute_are_a_quarantine(llama_cpp: None, tmp_path: Path) -> None:
    """The engine says so, and why, and takes nothing."""

    async def main() -> None:
        async with running(model(tmp_path)) as engine:
            for _ in range(3):
                await until(lambda: engine.ready is not None)
                assert engine.pid is not None
                os.kill(engine.pid, signal.SIGKILL)
                await until(lambda: engine.ready is None)
            await until(lambda: engine.state == "quarantined")
            assert "quarantined after 3 failures" in engine.detail
            assert "SIGKILL" in engine.detail
            with pytest.raises(EngineFailed):
                await engine.submit(job(FINE))

    asyncio.run(main())


def test_logits_that_are_no_numbers_end_request_and_worker(llama_cpp: None, tmp_path: Path) -> None:
    """A damaged row that the probe at load does not touch: the request fails with a typed error,
    the worker, whose cells are spoilt, is replaced, and the prompt is not tried a third time."""

    async def main() -> None:
        async with running(model(tmp_path, spoilt=True)) as engine:
            for _ in range(2):
                sequence = await engine.submit(job((3, NAN_TOKEN)))
                async with aclosing(sequence):
                    with pytest.raises(EngineFailed) as failed:
                        await anext(sequence)
                assert "not a number" in failed.value.message
                await until(lambda: engine.ready is None)
                await until(lambda: engine.ready is not None)
            assert engine.ends == {"not_a_number": 2}
            with pytest.raises(PromptRefused):
                await engine.submit(job((3, NAN_TOKEN)))
            assert (await outputs(engine, job(FINE)))[-1].finish == "length"

    asyncio.run(main())


def test_memory_beyond_the_bound_is_a_worker_that_does_not_start(
    llama_cpp: None, tmp_path: Path
) -> None:
    """An allocation that the bound refuses ends the load in words, however llama.cpp takes it."""

    async def main() -> None:
        path = str(model(tmp_path))
        engine = Engine(EngineSettings(model=path, slots=1, cells=8_000_000, memory=512 << 20))
        try:
            await engine.start()
            assert engine.ready is None
            assert set(engine.ends) <= {"load", "crash"}
            assert len(engine.detail) > 20
        finally:
            await engine.aclose()

    asyncio.run(main())


def test_copied_samplers_share_nothing(llama_cpp: None, tmp_path: Path) -> None:
    """DRY's samplers are copies of one: what another request said does not change an answer."""

    async def main() -> None:
        dry = SamplerSettings(temperature=0.8, seed=3, dry_multiplier=2.0, ignore_eos=True)
        async with running(model(tmp_path)) as engine:
            first = await outputs(engine, job(FINE, 60, sampler=dry))
            await outputs(engine, job(FATAL, 60, sampler=dry))
            assert [o.tokens for o in await outputs(engine, job(FINE, 60, sampler=dry))] == [
                o.tokens for o in first
            ]

    asyncio.run(main())
