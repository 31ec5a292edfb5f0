"""What one local model does on this machine: speed by streams, prompts, reuse, cancel.

A worker is started as the gateway starts it and asked through the same socket; nothing is in front
of it and nobody else asks. Prompts are random token ids and answers are kept from ending early, so
the work is the same for every model; what they say is not looked at.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backends.engine.client import Engine
from backends.engine.protocol import Job, SamplerSettings
from backends.engine.settings import EngineSettings
from gateway.core.errors import EngineFailed

SHORT, LONG, TAIL = 16, 384, 16
"""Tokens of a prompt: for generating, for reading, and what differs behind a shared beginning."""
CONTEXT = LONG + TAIL + 112
ENDLESS = SamplerSettings(ignore_eos=True)
CANCELS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What `tokens` took. `cpu_s` is None where the worker's CPU clock cannot be read."""

    tokens: int
    wall_s: float
    cpu_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """`generating` by streams; `step_s` too, the median time between two tokens of one stream.

    `reading` is a prompt of LONG tokens, `reused` one that shares all but TAIL tokens with it.
    """

    load_s: float
    generating: dict[int, Cost]
    step_s: dict[int, float]
    reading: Cost
    reused: Cost
    cancel_s: float


async def measure(settings: EngineSettings, streams: Sequence[int], tokens: int) -> EngineReport:
    """Start a worker, measure, end it. Raises EngineFailed if the model cannot be loaded."""
    async with _worker(settings) as engine:
        ready = engine.ready
        assert ready is not None
        draw = random.Random(7)

        def prompt(size: int) -> tuple[int, ...]:
            return tuple(draw.randrange(ready.vocab) for _ in range(size))

        await _cost(engine, [prompt(SHORT)], tokens)  # the first touches every page of the weights
        generating, step_s = {}, {}
        for count in streams:
            gaps: list[float] = []
            asked = [prompt(SHORT) for _ in range(count)]
            generating[count] = await _cost(engine, asked, tokens, gaps)
            step_s[count] = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
        head = prompt(LONG)
        reading = await _cost(engine, [head + prompt(TAIL)], 1)
        reused = await _cost(engine, [head + prompt(TAIL)], 1)
        return EngineReport(
            load_s=ready.load_s,
            generating=generating,
            step_s=step_s,
            reading=Cost(LONG + TAIL, reading.wall_s, reading.cpu_s),
            reused=Cost(LONG + TAIL, reused.wall_s, reused.cpu_s),
            cancel_s=sorted([await _cancel(engine, prompt(SHORT)) for _ in range(CANCELS)])[
                CANCELS // 2
            ],
        )


@asynccontextmanager
async def _worker(settings: EngineSettings) -> AsyncIterator[Engine]:
    engine = Engine(settings, name="bench")
    try:
        await engine.start()
        if engine.ready is None:
            raise EngineFailed(engine.detail)
        yield engine
    finally:
        await engine.aclose()


async def _cost(
    engine: Engine, prompts: Sequence[tuple[int, ...]], tokens: int, gaps: list[float] | None = None
) -> Cost:
    async def one(prompt: tuple[int, ...]) -> int:
        count, last = 0, 0.0
        job = Job(id=0, tokens=prompt, max_tokens=tokens, sampler=ENDLESS)
        async for output in await engine.submit(job):
            now = time.perf_counter()
            if gaps is not None and last:
                gaps.append(now - last)
            count, last = output.completion_tokens, now
        return count

    before, began = cpu_seconds(engine.pid), time.perf_counter()
    counts = await asyncio.gather(*(one(prompt) for prompt in prompts))
    wall, after = time.perf_counter() - began, cpu_seconds(engine.pid)
    used = None if before is None or after is None else after - before
    return Cost(sum(counts), wall, used)


async def _cancel(engine: Engine, prompt: tuple[int, ...]) -> float:
    """From leaving to the worker's word that nothing runs any more."""
    job = Job(id=0, tokens=prompt, max_tokens=CONTEXT - SHORT, sampler=ENDLESS)
    sequence = await engine.submit(job)
    await anext(sequence)
    began = time.perf_counter()
    await sequence.aclose()
    while (await engine.stats())["running"]:
        pass
    return time.perf_counter() - began


def cpu_seconds(pid: int | None) -> float | None:
    """User and system time of a process so far, all its threads; None where there is no telling.

    The clock id is Linux's encoding of "the CPU clock of process pid" (clock_getcpuclockid).
    /proc/PID/stat says the same in steps of 10 ms.
    """
    if pid is None or not sys.platform.startswith("linux"):
        return None
    return time.clock_gettime((~pid << 3) | 2)
