"""Drafts that the worker makes itself: the same answers as without, byte for byte."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.engine.client import Engine
from backends.engine.protocol import Job, SamplerSettings
from backends.engine.settings import EngineSettings
from tests.backends.engine.test_engine import outputs, running

GRAMMAR = 'root ::= "[" item ("," item)* "]"\nitem ::= "\\"" [a-c ]{1,6} "\\""'


def prompts(vocab: int, count: int = 16) -> list[tuple[int, ...]]:
    """Half of them repeat themselves, so that there is something to look up."""
    found = []
    for i in range(count):
        line = [(7 * i * i + 13 * j + 5) % (vocab - 20) + 10 for j in range(6 + 3 * i)]
        found.append(tuple(line * 3 if i % 2 else line))
    return found


async def answers(engine: Engine, jobs: list[Job]) -> list[tuple[tuple[int, ...], bytes]]:
    found = []
    for job in jobs:
        said = await outputs(engine, job)
        tokens = tuple(token for output in said for token in output.tokens)
        found.append((tokens, b"".join(output.text for output in said)))
    return found


def compared(path: Path, jobs: list[Job], **settings: object) -> dict[str, float]:
    """Assert that jobs are answered alike with drafts and without; the drafting side's counters."""

    async def main() -> dict[str, float]:
        async with running(path, context=512, **settings, speculate="off") as engine:
            plain = await answers(engine, jobs)
        async with running(path, context=512, **{"speculate": "always", **settings}) as engine:
            assert await answers(engine, jobs) == plain
            return dict(await engine.stats())

    return asyncio.run(main())


def job(prompt: tuple[int, ...], **more: object) -> Job:
    return Job(id=0, tokens=prompt, max_tokens=60, **more)  # type: ignore[arg-type]


def test_lookup_changes_no_greedy_answer(bundled_target: Path) -> None:
    """16 prompts: greedy answers are the same bytes with every draft that can be found."""
    stats = compared(bundled_target, [job(prompt) for prompt in prompts(4096)])
    assert stats["spec_accepted_tokens_ngram"] > 50
    assert stats["spec_draft_tokens_ngram"] > stats["spec_accepted_tokens_ngram"]


def test_lookup_changes_no_sampled_answer(bundled_target: Path) -> None:
    """With a seed at temperature 0.8, penalties and log-probabilities too."""
    sampler = SamplerSettings(temperature=0.8, seed=11, frequency_penalty=0.1, top_p=0.95)
    asked = [job(prompt, sampler=sampler, logprobs=1) for prompt in prompts(4096)]
    stats = compared(bundled_target, asked)
    assert stats["spec_drafts_ngram"] > 0


def test_lookup_changes_no_constrained_answer(bundled_target: Path) -> None:
    """And in the form of a grammar, which refuses most of what is drafted or all of it."""
    sampler = SamplerSettings(temperature=0.8, seed=3)
    asked = [job(prompt, grammar=GRAMMAR) for prompt in prompts(4096, 8)]
    asked += [job(prompt, grammar=GRAMMAR, sampler=sampler) for prompt in prompts(4096, 8)]
    stats = compared(bundled_target, asked)
    assert stats["spec_accepted_tokens_ngram"] > 0


def test_strict_sequences_speculate_exactly(bundled_target: Path) -> None:
    """Strict keeps its promise with drafts: the bytes are those of strict without."""
    asked = [job(prompt, strict=True) for prompt in prompts(4096, 6)]
    stats = compared(bundled_target, asked, strict=True, slots=2)
    assert stats["spec_accepted_tokens_ngram"] > 0


def test_a_draft_model_changes_no_answer(bundled_target: Path, bundled_draft: Path) -> None:
    """A small model's drafts, right and wrong ones, change nothing, greedy or sampled."""
    sampler = SamplerSettings(temperature=0.8, seed=5)
    asked = [job(prompt) for prompt in prompts(4096)]
    asked += [job(prompt, sampler=sampler) for prompt in prompts(4096, 8)]
    stats = compared(bundled_target, asked, draft=str(bundled_draft))
    drafted, held = (stats[f"spec_{what}_tokens_model"] for what in ("draft", "accepted"))
    assert 0 < held < drafted


def test_a_prediction_changes_no_answer(bundled_target: Path) -> None:
    """What the client expects is only a draft: right, half right and absurd ones change nothing,
    and the answer tells how many of its tokens held."""

    async def main() -> None:
        prompt = prompts(4096, 1)[0]
        async with running(bundled_target, context=512) as engine:
            [(plain, text)] = await answers(engine, [job(prompt)])
        half = (*plain[:20], *([7] * 30))
        async with running(bundled_target, context=512, speculate="always") as engine:
            for guess in (plain, half, (9,) * 40):
                said = await outputs(engine, job(prompt, prediction=guess))
                assert b"".join(output.text for output in said) == text
                held, failed = said[-1].prediction
                if guess == plain:
                    assert held >= len(plain) - 10
                if guess == half:
                    assert 10 < held <= 30
                    assert failed > 0
                if guess == (9,) * 40:
                    assert held <= 2

    asyncio.run(main())


def test_a_draft_model_of_another_vocabulary_is_refused(
    bundled_target: Path, stories: Path
) -> None:
    """A model whose tokens differ cannot draft, and the worker says so when it starts."""

    async def main() -> None:
        settings = EngineSettings(model=str(bundled_target), speculate="auto", draft=str(stories))
        engine = Engine(settings)
        try:
            await engine.start()
            assert engine.ready is None
            assert "its vocabulary is not the model's" in engine.detail
        finally:
            await engine.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("flash_attention", [True, False])
def test_costs_are_measured_at_load(bundled_target: Path, flash_attention: bool) -> None:
    """A worker that may speculate says what its passes cost, with its own attention."""

    async def main() -> None:
        async with running(
            bundled_target, context=256, speculate="auto", flash_attention=flash_attention
        ) as engine:
            assert engine.ready is not None
            assert "r(9)=" in engine.ready.meta["speculation"]

    asyncio.run(main())
