"""Prompts read back with log-probabilities, the best of several answers, the infill sampler."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.engine.choices import best
from backends.engine.client import Engine
from backends.engine.echo import Echo, Reading
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.scheduler import Scheduler
from backends.engine.scored import ScoredPrompt
from backends.engine.settings import EngineSettings
from backends.engine.slots import Limits
from tests.fakes.decoder import FakeDecoder

SCORES = """
import json, sys
import llama_cpp.llama_cpp as C
import numpy as np
C.llama_backend_init()
tokens = json.loads(sys.argv[2])
model = C.llama_model_load_from_file(sys.argv[1].encode(), C.llama_model_default_params())
params = C.llama_context_default_params()
params.n_ctx = 512
context = C.llama_init_from_model(model, params)
vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
scores = []
for token, follower in zip(tokens, tokens[1:]):
    batch = C.llama_batch_get_one((C.llama_token * 1)(token), 1)
    assert C.llama_decode(context, batch) == 0
    row = np.ctypeslib.as_array(C.llama_get_logits_ith(context, -1), (vocab,)).astype(np.float64)
    scores.append(float(row[follower] - np.logaddexp.reduce(row)))
print(json.dumps(scores))
"""


def test_a_prompt_is_scored_as_the_model_scores_it(bundled_target: Path) -> None:
    """Log-probabilities of a long prompt equal those of a decode token by token elsewhere."""
    prompt = tuple(300 + 7 * i % 1000 for i in range(150))

    async def main() -> list[Output]:
        engine = Engine(EngineSettings(model=str(bundled_target)))
        try:
            await engine.start()
            sequence = await engine.submit(
                Job(id=0, tokens=prompt, max_tokens=4, logprobs=2, scored=True)
            )
            return [output async for output in sequence]
        finally:
            await engine.aclose()

    outputs = asyncio.run(main())
    entries = [entry for output in outputs if output.prompt for entry in output.logprobs]
    answer = [entry for output in outputs if not output.prompt for entry in output.logprobs]
    assert len(entries) == len(prompt) and len(answer) == 4
    assert entries[0][1:] == (None, ())
    text = b"".join(output.text for output in outputs if output.prompt)
    spelt = b"".join(entry[0] for entry in entries)
    assert text.decode() == spelt.decode("utf-8", "replace")
    said = subprocess.run(
        [sys.executable, "-c", SCORES, str(bundled_target), json.dumps(prompt)],
        capture_output=True,
        check=True,
        text=True,
    )
    for (_, logprob, top), expected in zip(entries[1:], json.loads(said.stdout), strict=True):
        assert logprob == pytest.approx(expected, abs=0.15)
        assert len(top) == 2 and top[0][1] >= top[1][1]
        assert logprob is not None and top[0][1] >= logprob - 1e-5


def test_a_parked_prompt_is_told_once() -> None:
    """Positions that are computed again after a preemption are not told again."""
    scored = ScoredPrompt((1, 2, 3, 4), 0, lambda token: b"%d" % token)
    rows = np.zeros((4, 8), np.float32)
    first, entries = scored.read(0, rows[:2])
    assert (first, [entry[0] for entry in entries]) == (b"123", [b"1", b"2", b"3"])
    again, entries = scored.read(0, rows)
    assert (again, [entry[0] for entry in entries]) == (b"4", [b"4"])
    assert scored.read(0, rows) == (b"", ())


@pytest.mark.parametrize("length", [1, 2, 5, 30])
def test_scored_prompts_run_beside_others(length: int) -> None:
    """A scored job, short or long, ends with the tokens it would have unscored, in company."""

    def run(scored: bool) -> list[Output]:
        scheduler = Scheduler(
            FakeDecoder(cells=256, batch=16, outputs=12),
            Limits(context=64, cells=256, slots=4, batch=16, chunk=8, scores=6),
        )
        prompt = tuple(1 + i % 5 for i in range(length))
        scheduler.submit(Job(id=1, tokens=prompt, max_tokens=6, scored=scored))
        scheduler.submit(Job(id=2, tokens=(3, 1, 2) * 5, max_tokens=9))
        outputs: list[Output] = []
        while not scheduler.idle:
            outputs += scheduler.step()
        return outputs

    def tokens(outputs: list[Output], id: int) -> list[int]:
        return [t for o in outputs if o.id == id for t in o.tokens]

    plain, scored = run(False), run(True)
    assert tokens(scored, 1) == tokens(plain, 1)
    assert tokens(scored, 2) == tokens(plain, 2)
    told = [entry for output in scored if output.prompt for entry in output.logprobs]
    assert len(told) == length
    assert not any(output.prompt for output in plain)


def test_the_best_has_the_highest_mean() -> None:
    """Answers are ranked by log-probability per token; one without tokens comes last."""

    def answer(*scores: float) -> list[Output]:
        entries = tuple((b"x", score, ()) for score in scores)
        return [Output(id=0, logprobs=(((b"p", -50.0, ()),)), prompt=True),
                Output(id=0, logprobs=entries, finish="stop")]  # fmt: skip

    long, short, empty = answer(-1, -1, -1, -1), answer(-2), answer()
    assert best([empty, short, long]) == [long, short, empty]


def test_what_tokenizing_put_before_a_text_is_not_echoed() -> None:
    """A beginning-of-text token and SentencePiece's first blank are no part of what was sent."""
    entries = ((b"<s>", None, ()), (b" Once", -1.0, ()), (b" upon", -2.0, ()))
    reading = Reading(Echo(text="Once upon", scored=True), ids=False, begun=True)
    text, cleaned = reading.clean("<s> Once upon", entries)
    assert text == "Once upon"
    assert [entry[0] for entry in cleaned] == [b"Once", b" upon"]
    reading = Reading(Echo(scored=True), ids=True, begun=True)
    assert reading.clean("<s> Once upon", entries) == ("<s> Once upon", entries)


def test_the_infill_sampler_ends_what_is_unsure(bundled_target: Path) -> None:
    """The sampler changes a fill and never breaks one; its worker lives on."""

    async def main() -> list[tuple[int, ...]]:
        engine = Engine(EngineSettings(model=str(bundled_target)))
        try:
            await engine.start()
            answers = []
            for sampler in (
                SamplerSettings(),
                SamplerSettings(infill=True),
                SamplerSettings(infill=True, top_k=40, top_p=0.9),
                SamplerSettings(infill=True, temperature=1.0, seed=3),
                SamplerSettings(infill=True, logit_bias=((5, -100.0),)),
            ):
                sequence = await engine.submit(
                    Job(id=0, tokens=(3, 300, 301, 4, 310, 5), max_tokens=24, sampler=sampler)
                )
                outputs = [output async for output in sequence]
                assert outputs[-1].finish in ("stop", "length")
                answers.append(tuple(t for output in outputs for t in output.tokens))
            return answers
        finally:
            await engine.aclose()

    plain, *infilled = asyncio.run(main())
    assert any(answer != plain for answer in infilled)
