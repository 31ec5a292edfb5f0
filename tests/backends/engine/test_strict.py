"""Strict: what a target says does not depend on who drafts, how well, or who else is served."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine.client import Engine
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.settings import EngineSettings

LENGTH = 80
Drafter = Callable[[int, Sequence[int], int, random.Random], list[int]]
"""(position, the right tokens, vocabulary, chance) → a draft from that position on."""


def good(at: int, right: Sequence[int], vocab: int, chance: random.Random) -> list[int]:
    return list(right[at : at + 8])


def uneven(at: int, right: Sequence[int], vocab: int, chance: random.Random) -> list[int]:
    """Right for a while, then wrong: every width and every place of the mismatch comes up."""
    keep = chance.randrange(6)
    return [*right[at : at + keep], *(chance.randrange(vocab) for _ in range(chance.randrange(3)))]


def noise(at: int, right: Sequence[int], vocab: int, chance: random.Random) -> list[int]:
    return [chance.randrange(vocab) for _ in range(1 + chance.randrange(40))]


def always_wrong(at: int, right: Sequence[int], vocab: int, chance: random.Random) -> list[int]:
    return [(token + 1) % vocab for token in right[at : at + 4]]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Engine]:
    engine = Engine(EngineSettings(model=str(path), context=640, slots=3, strict=True))
    try:
        await engine.start()
        assert engine.ready is not None, engine.detail
        yield engine
    finally:
        await engine.aclose()


async def run(
    engine: Engine, asked: Job, drafter: Drafter | None, right: Sequence[int]
) -> list[Output]:
    """Draft after every output for where the target will be next, and a stale one now and then."""
    assert engine.ready is not None
    vocab, chance, done = engine.ready.vocab, random.Random(7), 0
    outputs: list[Output] = []
    sequence = await engine.submit(asked)
    try:
        async for output in sequence:
            outputs.append(output)
            done = output.base + len(output.tokens)
            if drafter is None or output.finish is not None:
                continue
            # The worker does not wait for us: aim at a few places, so that one is in time.
            for at in range(done, done + 4):
                sequence.draft(output.epoch, at, drafter(at, right, vocab, chance))
            if chance.random() < 0.1:
                sequence.draft(output.epoch - 1, done, [0])
                sequence.draft(output.epoch, max(0, done - 3), list(right[done - 3 : done + 2]))
    finally:
        await sequence.aclose()
    return outputs


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def shown(outputs: list[Output]) -> bytes:
    return b"".join(output.text for output in outputs)


def prompt(length: int, vocab: int) -> tuple[int, ...]:
    return tuple((31 * i * i + 7 * i) % (vocab - 10) + 8 for i in range(length))


SAMPLERS = {
    "greedy": SamplerSettings(),
    "T=0.8": SamplerSettings(temperature=0.8, top_k=40, seed=11),
    "penalties": SamplerSettings(temperature=0.8, seed=11, frequency_penalty=0.7),
}


@pytest.mark.parametrize("settings", SAMPLERS.values(), ids=SAMPLERS)
def test_drafts_change_no_byte(any_model: Path, settings: SamplerSettings) -> None:
    """With good, mixed, random and adversarial drafts, a strict target gives the very bytes, tokens
    and finish that it gives with none."""

    async def main() -> None:
        async with running(any_model) as engine:
            assert engine.ready is not None
            for length in (2, 65, 540) if settings.temperature == 0 else (65,):
                asked = Job(
                    id=0,
                    tokens=prompt(length, engine.ready.vocab),
                    max_tokens=LENGTH,
                    sampler=settings,
                    role="target",
                    strict=True,
                )
                alone = await run(engine, asked, None, [])
                right = tokens(alone)
                for drafter in (good, uneven, noise, always_wrong):
                    drafted = await run(engine, asked, drafter, right)
                    assert tokens(drafted) == right, drafter.__name__
                    assert shown(drafted) == shown(alone)
                    assert drafted[-1].finish == alone[-1].finish
                    if drafter is good and len(right) > 20:
                        assert sum(output.accepted for output in drafted) > 10

    asyncio.run(main())


def test_company_changes_no_byte(any_model: Path) -> None:
    """Others that come, go and have long prompts beside a strict target make no difference."""

    async def main() -> None:
        async with running(any_model) as engine:
            assert engine.ready is not None
            vocab = engine.ready.vocab
            asked = Job(
                id=0, tokens=prompt(70, vocab), max_tokens=LENGTH, role="target", strict=True
            )
            alone = await run(engine, asked, None, [])

            async def crowd() -> None:
                for i in range(6):
                    other = Job(id=0, tokens=prompt(5 + 70 * i, vocab), max_tokens=5 + i)
                    await run(engine, other, None, [])

            crowds = [asyncio.create_task(crowd()) for _ in range(2)]
            for drafter in (None, good, uneven):
                assert tokens(await run(engine, asked, drafter, tokens(alone))) == tokens(alone)
            await asyncio.gather(*crowds)

    asyncio.run(main())
