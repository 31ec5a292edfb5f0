"""Reused cells with real weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from backends.engine.llama import library
from backends.engine.llama.decoder import LlamaDecoder
from backends.engine.loading import load
from backends.engine.protocol import Job
from backends.engine.scheduler import Scheduler
from backends.engine.settings import EngineSettings


@pytest.mark.parametrize("cells", [0, 256])
def test_the_ledger_is_what_llama_cpp_holds(bundled_draft: Path, cells: int) -> None:
    """After two thousand random operations each sequence ends where the scheduler says it does,
    whether sequences have parts of the cells to themselves or share all."""
    library.start()
    model, context, limits = load(
        EngineSettings(model=str(bundled_draft), context=96, cells=cells, cached=4, optimism=0.1)
    )
    scheduler = Scheduler(LlamaDecoder(model, context), limits)
    dice = random.Random(1)
    heads = [[dice.randrange(300) for _ in range(60)] for _ in range(2)]
    for id in range(2000):
        if dice.random() < 0.3:
            prompt = [*heads[id % 2][: dice.randrange(1, 60)], *(dice.randrange(300),) * 3]
            scheduler.submit(
                Job(
                    id=id,
                    tokens=tuple(prompt),
                    max_tokens=dice.randrange(1, 33),
                    tenant=f"{id % 3}",
                )
            )
        elif dice.random() < 0.2:
            scheduler.cancel(id - dice.randrange(1, 20))
        scheduler.step()
        if id % 20 == 0:
            for slot in scheduler.cells.slots.values():
                assert context.last(slot.sequence) == slot.fed - 1
            held = sum(context.last(s) + 1 for s in range(limits.sequences))
            assert held == scheduler.cells.used
    stats = scheduler.stats
    assert stats.prefix_hits and stats.evictions
    assert bool(stats.preemptions) == bool(cells)  # a part has room for a whole context
    context.close()
    model.close()


@pytest.mark.parametrize("cells", [0, 512])
def test_reused_cells_give_the_same_text(bundled_target: Path, cells: int) -> None:
    """16 prompts, Q8_0, flash attention, below 512 cells: greedy tokens do not depend on reuse."""
    library.start()
    said: list[list[tuple[int, ...]]] = []
    for cached in (0, 16):
        model, context, limits = load(
            EngineSettings(model=str(bundled_target), context=256, cells=cells, cached=cached)
        )
        scheduler = Scheduler(LlamaDecoder(model, context), limits)
        answers = []
        for id in range(16):
            prompt = tuple((7 * j * j + 3 * j) % 400 + 8 for j in range(60)) + (id + 10, id + 40)
            scheduler.submit(Job(id=id, tokens=prompt, max_tokens=12))
            tokens: list[int] = []
            while not scheduler.idle:
                for output in scheduler.step():
                    tokens += output.tokens
            answers.append(tuple(tokens))
        said.append(answers)
        assert (scheduler.stats.prefix_hits > 0) == (cached > 0)
        context.close()
        model.close()
    assert said[0] == said[1]
