"""Samplers and log-probabilities, with a real worker and real weights."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backends.engine.client import Engine
from backends.engine.protocol import Job, Output, Role, SamplerSettings
from backends.engine.settings import EngineSettings

ONCE = (1, 403, 407, 261, 378)
"""BOS and "Once upon a time", in the tokens of stories260K."""
END = 2

LOG_SOFTMAX = """
import json, sys
import llama_cpp.llama_cpp as C
import numpy as np
C.llama_backend_init()
tokens = json.loads(sys.argv[2])
model = C.llama_model_load_from_file(sys.argv[1].encode(), C.llama_model_default_params())
params = C.llama_context_default_params()
params.n_ctx = 256
context = C.llama_init_from_model(model, params)
batch = (C.llama_token * len(tokens))(*tokens)
assert C.llama_decode(context, C.llama_batch_get_one(batch, len(tokens))) == 0
vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
row = np.ctypeslib.as_array(C.llama_get_logits_ith(context, -1), (vocab,)).astype(np.float64)
print(json.dumps((row - np.logaddexp.reduce(row)).tolist()))
"""


@asynccontextmanager
async def running(path: Path, *, strict: bool = False) -> AsyncIterator[Engine]:
    # What the tests compare with is computed with flash attention.
    settings = EngineSettings(model=str(path), strict=strict, flash_attention=True)
    engine = Engine(settings)
    try:
        await engine.start()
        assert engine.ready is not None, engine.detail
        yield engine
    finally:
        await engine.aclose()


async def run(
    engine: Engine,
    sampler: SamplerSettings | None = None,
    *,
    prompt: tuple[int, ...] = ONCE,
    max_tokens: int = 40,
    stop: tuple[bytes, ...] = (),
    logprobs: int | None = None,
) -> list[Output]:
    sampler = sampler or SamplerSettings()
    asked = Job(
        id=0, tokens=prompt, max_tokens=max_tokens, sampler=sampler, stop=stop, logprobs=logprobs
    )
    sequence = await engine.submit(asked)
    try:
        return [output async for output in sequence]
    finally:
        await sequence.aclose()


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def test_logprobs_are_the_models_own(stories: Path) -> None:
    """They equal a log-softmax from another context; the greedy token is the first of its top."""

    async def main() -> list[Output]:
        async with running(stories) as engine:
            return await run(engine, max_tokens=8, logprobs=5)

    outputs = asyncio.run(main())
    entries = [entry for output in outputs for entry in output.logprobs]
    chosen = tokens(outputs)
    assert len(entries) == len(chosen) == 8
    for data, logprob, top in entries:
        assert top[0] == (data, logprob)
        assert len(top) == 5
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert sum(math.exp(p) for _, p in top) <= 1 + 1e-6
    for at in (0, 7):
        prefix = json.dumps([*ONCE, *chosen[:at]])
        told = subprocess.run(
            [sys.executable, "-c", LOG_SOFTMAX, str(stories), prefix],
            capture_output=True,
            check=True,
        )
        reference = json.loads(told.stdout)
        assert entries[at][1] == pytest.approx(reference[chosen[at]], abs=1e-3)
        best = sorted(reference, reverse=True)[:5]
        assert [p for _, p in entries[at][2]] == pytest.approx(best, abs=1e-3)


def test_logprobs_go_with_their_text(stories: Path) -> None:
    """A sampled answer's entries spell its text; a stop string takes its tokens' away."""

    async def main() -> None:
        async with running(stories) as engine:
            sampler = SamplerSettings(temperature=1.0, seed=3)
            whole = await run(engine, sampler, logprobs=0)
            text = b"".join(output.text for output in whole)
            assert b"".join(data for o in whole for data, _, _ in o.logprobs) == text
            cut = await run(engine, stop=(b"e park",), max_tokens=100, logprobs=0)
            shown = b"".join(output.text for output in cut)
            spelt = b"".join(data for o in cut for data, _, _ in o.logprobs)
            assert cut[-1].finish == "stop"
            assert shown.startswith(spelt) and spelt
            assert not any(o.logprobs for o in await run(engine))

    asyncio.run(main())


def test_a_bias_forces_and_bans(stories: Path) -> None:
    """+100 makes a token the only one, -100 the last one, greedy and sampled."""

    async def main() -> None:
        async with running(stories) as engine:
            plain = tokens(await run(engine))
            for temperature in (0.0, 1.0):
                force = SamplerSettings(temperature=temperature, logit_bias=((300, 100.0),))
                assert set(tokens(await run(engine, force))) == {300}
                ban = SamplerSettings(temperature=temperature, logit_bias=((plain[0], -100.0),))
                assert plain[0] not in tokens(await run(engine, ban))

    asyncio.run(main())


def test_a_top_k_beyond_the_vocabulary_leaves_all_of_it(stories: Path) -> None:
    """A client's 2**32 + 1 does not reach llama.cpp as its lowest 32 bits, which are 1."""

    async def main() -> None:
        async with running(stories) as engine:
            hot = SamplerSettings(temperature=1.0, seed=11)
            said = [
                [token for output in await run(engine, settings) for token in output.tokens]
                for settings in (hot, replace(hot, top_k=2**32 + 1), replace(hot, top_k=1))
            ]
            assert said[0] == said[1] != said[2]

    asyncio.run(main())


def test_an_end_can_be_put_off(stories: Path) -> None:
    """min_tokens bans the end until the answer has so many, ignore_eos for good."""

    async def main() -> None:
        async with running(stories) as engine:
            ends = SamplerSettings(logit_bias=((END, 100.0),))
            assert tokens(await run(engine, ends)) == [END]
            late = SamplerSettings(logit_bias=((END, 100.0),), min_tokens=5)
            outputs = await run(engine, late)
            assert tokens(outputs).index(END) == 5
            assert outputs[-1].finish == "stop"
            never = SamplerSettings(logit_bias=((END, 100.0),), ignore_eos=True)
            outputs = await run(engine, never)
            assert END not in tokens(outputs)
            assert outputs[-1].finish == "length"

    asyncio.run(main())


@pytest.mark.parametrize(
    "settings",
    [
        {"repeat_penalty": 1.5, "repeat_last_n": -1},
        {"dry_multiplier": 4.0},
    ],
)
def test_penalties_see_the_prompt(stories: Path, settings: dict[str, float]) -> None:
    """A prompt that loops is not looped on, though the answer itself has repeated nothing."""

    async def main() -> None:
        async with running(stories) as engine:
            loop = tuple(tokens(await run(engine, max_tokens=6)))
            prompt = ONCE + (*loop, *ONCE[1:]) * 4
            plain = tokens(await run(engine, prompt=prompt, max_tokens=6))
            varied = await run(
                engine,
                SamplerSettings(**settings),  # type: ignore[arg-type]
                prompt=prompt,
                max_tokens=6,
            )
            assert plain == list(loop)
            assert tokens(varied) != plain

    asyncio.run(main())


def test_a_seed_repeats_with_every_sampler(stories: Path) -> None:
    """All parameters at once: equal seeds give equal tokens, others not."""

    async def main() -> None:
        async with running(stories) as engine:

            async def sampled(seed: int) -> list[int]:
                settings = SamplerSettings(
                    temperature=1.2,
                    top_p=0.98,
                    top_k=100,
                    min_p=0.001,
                    typical_p=0.95,
                    seed=seed,
                    frequency_penalty=0.2,
                    presence_penalty=0.1,
                    repeat_penalty=1.1,
                    dry_multiplier=0.8,
                    logit_bias=((300, 1.0),),
                    min_tokens=10,
                )
                return tokens(await run(engine, settings))

            first, again, other = [await sampled(seed) for seed in (1, 1, 2)]
            assert first == again != other

    asyncio.run(main())


def test_a_verified_draft_changes_nothing(stories: Path) -> None:
    """A target that verifies drafts gives the tokens and log-probabilities of a plain run."""
    settings = SamplerSettings(
        temperature=0.7, seed=5, repeat_penalty=1.2, dry_multiplier=0.8, min_tokens=20
    )

    def asked(role: Role) -> Job:
        return Job(
            id=0, tokens=ONCE, max_tokens=40, sampler=settings, strict=True, role=role, logprobs=2
        )

    async def main() -> None:
        async with running(stories, strict=True) as engine:

            async def told(role: Role, draft: list[int]) -> list[Output]:
                sequence = await engine.submit(asked(role))
                try:
                    seen: list[Output] = []
                    async for output in sequence:
                        seen.append(output)
                        # The worker does not wait for a draft: send what is still to come.
                        done = output.base + len(output.tokens)
                        if draft[done:] and output.finish is None:
                            sequence.draft(output.epoch, done, draft[done:])
                    return seen
                finally:
                    await sequence.aclose()

            plain = await told("generate", [])
            again = await told("target", tokens(plain))
            assert sum(output.accepted for output in again) > 0
            assert tokens(again) == tokens(plain)
            entries = [[e for o in run for e in o.logprobs] for run in (plain, again)]
            assert entries[0] == entries[1]

    asyncio.run(main())
