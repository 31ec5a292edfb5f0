"""Sessions of several clients and ordinary requests share one decode, each with its own answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backends.engine.client import Engine
from backends.engine.protocol import Job
from backends.engine.scheduler import Scheduler
from backends.engine.settings import EngineSettings
from backends.engine.slots import Limits
from tests.fakes.decoder import FakeDecoder, answer

PROMPTS = {1: [2, 4], 2: [3, 5, 7], 3: [4, 4, 4, 6], 4: [6, 1]}
LENGTH = 40


def test_one_decode_for_all() -> None:
    """Two drafted sessions, one that nobody drafts for and a plain request: their rows lie in the
    same batches, the drafts' among them, and everybody says what they would say alone."""
    engine = FakeDecoder(cells=1_000, batch=64, outputs=64)
    scheduler = Scheduler(engine, Limits(context=250, cells=1_000, slots=4, batch=64, parts=True))
    right = {id: answer(prompt, LENGTH) for id, prompt in PROMPTS.items()}
    said: dict[int, list[int]] = {id: [] for id in PROMPTS}
    for id, prompt in PROMPTS.items():
        role = "generate" if id == 4 else "target"
        scheduler.submit(Job(id=id, tokens=tuple(prompt), max_tokens=LENGTH, role=role))
    accepted = dict.fromkeys(PROMPTS, 0)
    while scheduler.cells.slots or not any(said.values()):
        for output in scheduler.step():
            said[output.id] += output.tokens
            accepted[output.id] += output.accepted
            at = len(said[output.id])
            if output.id in (1, 2):
                scheduler.draft(output.id, output.epoch, at, right[output.id][at : at + 4])
    assert said == right
    assert accepted[1] > 0 and accepted[2] > 0 and accepted[3] == accepted[4] == 0
    together = [batch for batch in engine.history if len({sequence for sequence, _ in batch}) == 4]
    assert any(len(batch) > 8 for batch in together), "drafts and the others never shared a batch"


def test_a_real_worker_serves_both(stories: Path) -> None:
    """The same with real weights in a worker: eight at once take far fewer steps than singly."""

    async def main() -> None:
        engine = Engine(EngineSettings(model=str(stories), context=256, slots=8, cached=0))
        await engine.start()
        try:
            assert engine.ready is not None, engine.detail

            async def ask(number: int) -> list[int]:
                role = "target" if number % 2 else "generate"
                job = Job(id=0, tokens=(1, 403 + number, 407), max_tokens=50, role=role)
                sequence = await engine.submit(job)
                try:
                    return [token async for output in sequence for token in output.tokens]
                finally:
                    await sequence.aclose()

            before = (await engine.stats())["steps"]
            alone = [await ask(number) for number in range(8)]
            between = (await engine.stats())["steps"]
            together = await asyncio.gather(*(ask(number) for number in range(8)))
            after = (await engine.stats())["steps"]
            assert [len(each) for each in together] == [len(each) for each in alone]
            assert after - between < (between - before) / 3
        finally:
            await engine.aclose()

    asyncio.run(main())
