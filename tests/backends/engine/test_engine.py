"""The engine with a real worker and real weights."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine.client import Engine
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.sequence import PAUSE_AT
from backends.engine.settings import EngineSettings
from gateway.core.errors import ContextExceeded, EngineFailed, InvalidRequest, Overloaded

ONCE = (1, 403, 407, 261, 378)
"""BOS and "Once upon a time", in the tokens of stories260K."""
GOLDEN = (
    ", there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)


@asynccontextmanager
async def running(path: Path, **settings: object) -> AsyncIterator[Engine]:
    engine = Engine(EngineSettings(model=str(path), **settings))  # type: ignore[arg-type]
    try:
        await engine.start()
        assert engine.ready is not None, engine.detail
        yield engine
    finally:
        await engine.aclose()


def job(tokens: tuple[int, ...] = ONCE, max_tokens: int = 40, **more: object) -> Job:
    return Job(id=0, tokens=tokens, max_tokens=max_tokens, **more)  # type: ignore[arg-type]


async def outputs(engine: Engine, asked: Job) -> list[Output]:
    sequence = await engine.submit(asked)
    try:
        return [output async for output in sequence]
    finally:
        await sequence.aclose()


async def text(engine: Engine, asked: Job) -> str:
    return b"".join(output.text for output in await outputs(engine, asked)).decode()


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_golden_text(stories: Path) -> None:
    """Greedy text of stories260K begins as llama2.c's own reference does."""

    async def main() -> None:
        async with running(stories) as engine:
            assert (await text(engine, job(max_tokens=100))).startswith(GOLDEN)

    asyncio.run(main())


def test_ready_tells_what_was_measured(stories: Path) -> None:
    """A worker that is up has decoded a probe: Q8_0 logits do not depend on the width."""

    async def main() -> None:
        async with running(stories, slots=2) as engine:
            assert engine.ready is not None
            assert (engine.ready.vocab, engine.ready.context, engine.ready.slots) == (512, 512, 2)
            assert engine.ready.exactness == "bitwise"
            assert not engine.ready.fim

    asyncio.run(main())


def test_many_at_once_equal_one_by_one(any_model: Path) -> None:
    """Strict sequences give the same tokens in company as alone, whoever comes and goes."""

    async def main() -> None:
        async with running(any_model, strict=True, slots=4, context=256) as engine:
            assert engine.ready is not None
            vocab = engine.ready.vocab
            asked = [
                job(
                    tuple((7 * i * i + 13 * j) % (vocab - 10) + 8 for j in range(3 + 17 * i)),
                    20 + 5 * i,
                    strict=True,
                )
                for i in range(8)
            ]
            alone = [await outputs(engine, one) for one in asked]
            together = await asyncio.gather(*(outputs(engine, one) for one in asked))
            for a, b in zip(alone, together, strict=True):
                assert [o.tokens for o in a] == [o.tokens for o in b]

    asyncio.run(main())


def test_seed_repeats_a_sample(stories: Path) -> None:
    """The same seed gives the same text, another seed another one."""

    async def main() -> None:
        async with running(stories) as engine:

            def asked(seed: int) -> Job:
                return job(sampler=SamplerSettings(temperature=1.0, top_p=0.95, seed=seed))

            first, again, other = [await text(engine, asked(seed)) for seed in (1, 1, 2)]
            assert first == again != other

    asyncio.run(main())


def test_penalties_change_what_repeats(stories: Path) -> None:
    """A frequency penalty lowers what the answer already has, at temperature 0 too."""

    async def main() -> None:
        async with running(stories) as engine:
            plain = await outputs(engine, job(max_tokens=120))
            settings = SamplerSettings(frequency_penalty=1.5)
            varied = await outputs(engine, job(max_tokens=120, sampler=settings))
            distinct = [len({t for o in run for t in o.tokens}) for run in (plain, varied)]
            assert distinct[1] > distinct[0]

    asyncio.run(main())


def test_a_stop_string_ends_an_answer(stories: Path) -> None:
    """Text ends before the stop string, though tokens carry other borders."""

    async def main() -> None:
        async with running(stories) as engine:
            run = await outputs(engine, job(max_tokens=100, stop=(b"e park",)))
            assert b"".join(o.text for o in run).decode() == GOLDEN[: GOLDEN.find("e park")]
            assert run[-1].finish == "stop"

    asyncio.run(main())


def test_closing_a_sequence_frees_its_cells(stories: Path) -> None:
    """A reader who leaves stops the computation; the ledger is empty again."""

    async def main() -> None:
        async with running(stories) as engine:
            sequence = await engine.submit(job(max_tokens=500))
            assert (await anext(sequence)).tokens
            await sequence.aclose()

            async def free() -> bool:
                stats = await engine.stats()
                return stats["running"] == stats["reserved"] == 0

            await until(free)
            stats = await engine.stats()
            assert stats["cancelled"] == 1
            assert stats["generated_tokens"] < 500

    asyncio.run(main())


def test_refusals_are_errors_of_the_client(stories: Path) -> None:
    """What the worker refuses arrives as the error that a client should see."""

    async def main() -> None:
        async with running(stories, slots=1, queue=1) as engine:
            with pytest.raises(ContextExceeded):
                await outputs(engine, job(max_tokens=508))
            with pytest.raises(InvalidRequest):
                await outputs(engine, job((512,)))
            held = await engine.submit(job(max_tokens=500))
            await anext(held)
            waiting = await engine.submit(job())
            with pytest.raises(Overloaded):
                await outputs(engine, job())
            await held.aclose()
            await waiting.aclose()

    asyncio.run(main())


def test_a_slow_reader_pauses_its_sequence(stories: Path) -> None:
    """Outputs that nobody reads are bounded; reading goes on to the whole answer."""

    async def main() -> None:
        async with running(stories, context=2048) as engine:
            sequence = await engine.submit(job(max_tokens=600))
            seen = 0

            async def resting() -> bool:
                nonlocal seen
                before, seen = seen, (await engine.stats())["steps"]
                return before == seen > 0

            await until(resting)
            stats = await engine.stats()
            assert PAUSE_AT <= stats["generated_tokens"] < 600
            tokens = [token async for output in sequence for token in output.tokens]
            assert len(tokens) == 600
            await sequence.aclose()

    asyncio.run(main())


def test_a_killed_worker_comes_back(stories: Path) -> None:
    """kill -9 in the middle of a stream: that stream fails, the next request is answered."""

    async def main() -> None:
        async with running(stories) as engine:
            pid = engine.pid
            assert pid is not None
            sequence = await engine.submit(job(max_tokens=500))
            await anext(sequence)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineFailed):
                async for _ in sequence:
                    pass
            await sequence.aclose()

            async def back() -> bool:
                return engine.ready is not None

            await until(back)
            assert engine.pid != pid
            assert engine.restarts == 1
            assert (await text(engine, job())) in GOLDEN

    asyncio.run(main())


def test_a_stuck_worker_is_killed(stories: Path) -> None:
    """A worker that has work and makes no step is ended, and its sequences fail."""

    async def main() -> None:
        engine = Engine(EngineSettings(model=str(stories)), stuck_s=0.3)
        try:
            await engine.start()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            sequence = await engine.submit(job())
            with pytest.raises(EngineFailed):
                await anext(sequence)
            await sequence.aclose()
        finally:
            await engine.aclose()

    asyncio.run(main())


def test_a_drafter_that_waits_is_not_stuck(stories: Path) -> None:
    """A sequence that waits for others is no work: the watchdog looks only at work."""

    async def main() -> None:
        async with running(stories) as engine:
            sequence = await engine.submit(job(max_tokens=100, role="draft", ahead=4))
            assert engine.busy
            drafted = [(await anext(sequence)).tokens[0] for _ in range(4)]

            async def rests() -> bool:
                return not engine.busy

            await until(rests)
            sequence.sync(0, 0, drafted)
            assert engine.busy
            assert (await anext(sequence)).base == 4
            await sequence.aclose()

    asyncio.run(main())


def test_no_process_stays(stories: Path) -> None:
    """After `aclose` there is no worker, however it was interrupted."""

    async def main() -> int:
        async with running(stories) as engine:
            sequence = await engine.submit(job(max_tokens=500))
            await anext(sequence)
            assert engine.pid is not None
            return engine.pid

    assert not alive(asyncio.run(main()))


def test_workers_die_with_their_parent(stories: Path) -> None:
    """A gateway that is killed without a word leaves no worker behind."""
    script = (
        "import asyncio, sys\n"
        "from backends.engine.client import Engine\n"
        "from backends.engine.settings import EngineSettings\n"
        "async def main():\n"
        "    engine = Engine(EngineSettings(model=sys.argv[1]))\n"
        "    await engine.start()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(stories), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        worker = int(await parent.stdout.readline())
        assert alive(worker)
        parent.kill()
        await parent.wait()

        async def gone() -> bool:
            return not alive(worker)

        await until(gone)
        await parent.stdout.read()

    asyncio.run(main())


def test_a_file_that_is_no_model(llama_cpp: None, tmp_path: Path) -> None:
    """A file that cannot be loaded leaves the engine down and says so; nothing hangs."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)

    async def main() -> None:
        engine = Engine(EngineSettings(model=str(path)))
        try:
            await engine.start()
            assert engine.ready is None
            assert "broken.gguf" in engine.detail
            with pytest.raises(EngineFailed):
                await engine.submit(job())
        finally:
            await engine.aclose()

    asyncio.run(main())
