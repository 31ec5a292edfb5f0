"""What verification says is distributed as the model alone: exact, with eight tokens.

A toy model whose next token depends on the two before it; the joint distribution of its first three
tokens is enumerated. The real scheduler verifies; 20,000 answers, a seed each. And the test is
tested: three planted bugs, each of the kind that real verifiers have had, must make it fail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engine.client import Engine
from backends.engine.decoding import Floats, Sampler
from backends.engine.gumbel import Noise, margin
from backends.engine.protocol import Job, SamplerSettings
from backends.engine.scheduler import Scheduler
from backends.engine.settings import EngineSettings
from backends.engine.slots import Limits
from tests.fakes.decoder import FakeDecoder
from tests.fakes.goodness import Fit, fit

V, LENGTH, N, SLOTS = 8, 3, 20_000, 64
FEWER = 6_000
PROMPT = (1, 2)
TABLE = np.random.default_rng(11).normal(0, 1.5, (V, V, V)).astype(np.float32)
IDS = np.arange(V, dtype=np.int32)
Choice = Callable[[Floats, int, int], int]
"""(logits, seed, position) → token"""
Drafter = Callable[[Sequence[int], int], list[int]]
"""(said so far, seed) → a draft"""


def shared(logits: Floats, seed: int, position: int) -> int:
    return int((logits + Noise(seed, V)(position, IDS)).argmax())


def same_noise_everywhere(logits: Floats, seed: int, position: int) -> int:
    """Planted: one seed's noise at all positions, as a fan-out with a fixed seed has."""
    return shared(logits, seed, 0)


def renormalised_top(logits: Floats, seed: int, position: int) -> int:
    """Planted: the likeliest four as if they were all."""
    kept = np.where(logits >= np.sort(logits)[-4], logits, -np.inf)
    return shared(kept, seed, position)


class Chooser:
    def __init__(self, job: Job, choice: Choice) -> None:
        self._seed = job.sampler.seed or 0
        self._choice = choice
        self._said = 0
        self.margin = 0.0

    def __call__(self, logits: Floats) -> int:
        token = self._choice(logits, self._seed, self._said)
        self._said += 1
        self.margin = margin(logits.copy(), token)
        return token

    def accept(self, token: int) -> None:
        self._said += 1

    def above(self, token: int) -> float:
        return float("inf")

    def close(self) -> None: ...


class Toy(FakeDecoder):
    """No token ends an answer here: all strings have three."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(cells=SLOTS * 64, batch=512, outputs=512)
        self.vocab = V
        self._choice = choice

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        super().decode(tokens, positions, sequences, [False] * len(tokens))
        rows = [
            TABLE[tuple(self.cells[sequence][position - 1 : position + 1])]
            for position, sequence, want in zip(positions, sequences, wanted, strict=True)
            if want
        ]
        return np.array(rows, np.float32).reshape(-1, V)

    def sampler(self, job: Job) -> Sampler | None:
        return Chooser(job, self._choice)

    def ends(self, token: int) -> bool:
        return False


class Trusting(Scheduler):
    """Planted: what is drafted is taken for verified (llama.cpp issue 27975)."""

    def _emit(self, rows, logits, greedy):  # type: ignore[no-untyped-def]
        for at, token in enumerate(rows.draft):
            logits[at] = np.where(token == IDS, 50.0, -50.0)
        super()._emit(rows, logits, greedy)


EXACT: dict[tuple[int, ...], float] = {}
for string in itertools.product(range(V), repeat=LENGTH):
    chance, before = 1.0, PROMPT
    for token in string:
        row = np.exp(TABLE[before].astype(np.float64))
        chance *= float(row[token] / row.sum())
        before = (before[1], token)
    EXACT[string] = chance


def none(said: Sequence[int], seed: int) -> list[int]:
    return []


def likeliest(said: Sequence[int], seed: int) -> list[int]:
    line = [*PROMPT, *said]
    while len(line) < len(PROMPT) + LENGTH:
        line.append(int(TABLE[tuple(line[-2:])].argmax()))
    return line[len(PROMPT) + len(said) :]


def coupled(said: Sequence[int], seed: int) -> list[int]:
    """A worse model with the same noise."""
    line, at = [*PROMPT, *said], len(said)
    while at < LENGTH:
        worse = TABLE[tuple(line[-2:])] + TABLE[line[-1], line[-2]] / 4
        line.append(shared(worse, seed, at))
        at += 1
    return line[len(PROMPT) + len(said) :]


def second_best(said: Sequence[int], seed: int) -> list[int]:
    line = [*PROMPT, *said]
    return [int(np.argsort(TABLE[tuple(line[-2:])])[-2])] * 2


def noisy(said: Sequence[int], seed: int) -> list[int]:
    return np.random.default_rng(seed + len(said)).integers(0, V, 3).tolist()


def sample(
    drafter: Drafter,
    *,
    choice: Choice = shared,
    verifier: type[Scheduler] = Scheduler,
    count: int = N,
) -> tuple[Counter[tuple[int, ...]], list[tuple[int, ...]], int]:
    """Three tokens of each seed, counted and in order, and how many drafted ones held."""
    scheduler = verifier(
        Toy(choice), Limits(context=64, cells=SLOTS * 64, slots=SLOTS, verify=4, parts=True)
    )
    said: dict[int, list[int]] = {}
    left = iter(range(count))
    running = 0
    while True:
        for seed in itertools.islice(left, SLOTS - running):
            running += 1
            said[seed] = []
            scheduler.submit(
                Job(
                    id=seed,
                    tokens=PROMPT,
                    max_tokens=LENGTH,
                    sampler=SamplerSettings(temperature=1.0, seed=seed),
                    role="target",
                )
            )
        if not running:
            break
        for output in scheduler.step():
            assert output.base == len(said[output.id])
            said[output.id] += output.tokens
            if output.finish is not None:
                running -= 1
            else:
                draft = drafter(said[output.id], output.id)
                scheduler.draft(output.id, output.epoch, len(said[output.id]), draft)
    strings = [tuple(said[seed]) for seed in range(count)]
    return Counter(strings), strings, scheduler.stats.accepted


@pytest.fixture(scope="module")
def alone() -> tuple[Counter[tuple[int, ...]], list[tuple[int, ...]]]:
    counts, strings, _ = sample(none)
    return counts, strings


def test_the_target_alone_is_exact(
    alone: tuple[Counter[tuple[int, ...]], list[tuple[int, ...]]],
) -> None:
    """Without drafts, 20,000 samples of three tokens fit the joint distribution."""
    assert sum(EXACT.values()) == pytest.approx(1.0)
    assert fit(alone[0], EXACT).good


@pytest.mark.parametrize("drafter", [likeliest, coupled, second_best, noisy])
def test_drafts_change_no_sample(
    drafter: Drafter, alone: tuple[Counter[tuple[int, ...]], list[tuple[int, ...]]]
) -> None:
    """With any drafter each seed says the same three tokens, so the distribution is exact too."""
    counts, strings, accepted = sample(drafter)
    assert strings == alone[1]
    assert fit(counts, EXACT).good
    assert accepted > (N / 2 if drafter is coupled else 0)


FAULTS: dict[str, Callable[[], Fit]] = {
    "one noise at all positions": lambda: _fit(none, choice=same_noise_everywhere),
    "the top renormalised": lambda: _fit(none, choice=renormalised_top),
    "drafts not verified": lambda: _fit(likeliest, verifier=Trusting),
}


def _fit(drafter: Drafter, **planted: Any) -> Fit:
    return fit(sample(drafter, count=FEWER, **planted)[0], EXACT)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_test_finds_planted_bugs(fault: str) -> None:
    """Each planted bug is seen by it: the test can fail."""
    assert not FAULTS[fault]().good


@pytest.mark.slow
def test_a_real_chain_is_exact(stories: Path) -> None:
    """The first two tokens of a real model, 20,000 seeds at temperature 0.8 with top-k, drafted by
    the model itself: as a log-softmax of its own logits says."""
    seeds = 20_000

    async def main() -> tuple[Counter[tuple[int, ...]], dict[tuple[int, ...], float], int]:
        engine = Engine(EngineSettings(model=str(stories), context=256, slots=16, strict=False))
        await engine.start()
        try:
            assert engine.ready is not None, engine.detail
            exact = await _joint(engine, top=6)
            seen: Counter[tuple[int, ...]] = Counter()
            accepted = 0
            likely = max(exact, key=lambda string: exact[string])

            async def one(seed: int) -> None:
                nonlocal accepted
                settings = SamplerSettings(temperature=0.8, top_k=6, seed=seed)
                job = Job(id=0, tokens=ONCE, max_tokens=3, sampler=settings, role="target")
                sequence = await engine.submit(job)
                try:
                    sequence.draft(0, 0, likely)
                    outputs = [output async for output in sequence]
                finally:
                    await sequence.aclose()
                accepted += sum(output.accepted for output in outputs)
                seen[tuple(t for output in outputs for t in output.tokens)[:2]] += 1

            for start in range(0, seeds, 48):
                await asyncio.gather(*(one(s) for s in range(start, min(seeds, start + 48))))
            return seen, exact, accepted
        finally:
            await engine.aclose()

    seen, exact, accepted = asyncio.run(main())
    found = fit(seen, exact)
    assert found.good, found
    assert accepted > 0


ONCE = (1, 403, 407, 261, 378)


async def _joint(engine: Engine, *, top: int) -> dict[tuple[int, ...], float]:
    """P(first two tokens) by the model's own log-probabilities, among the likeliest `top`."""

    async def row(prefix: tuple[int, ...]) -> dict[int, float]:
        """Logits of the likeliest, by forcing each: a bias shifts none of the others."""
        sequence = await engine.submit(Job(id=0, tokens=prefix, max_tokens=1, logprobs=top))
        outputs = [output async for output in sequence]
        [entry] = [entry for output in outputs for entry in output.logprobs]
        found: dict[int, float] = {}
        banned: list[tuple[int, float]] = []
        for _, logprob in entry[2][:top]:
            settings = SamplerSettings(logit_bias=tuple(banned))
            sequence = await engine.submit(Job(id=0, tokens=prefix, max_tokens=1, sampler=settings))
            [token] = [t for output in [o async for o in sequence] for t in output.tokens]
            found[token] = logprob / 0.8
            banned.append((token, -1000.0))
        weights = {token: np.exp(logit) for token, logit in found.items()}
        return {token: float(w / sum(weights.values())) for token, w in weights.items()}

    joint = {}
    for first, p in (await row(ONCE)).items():
        for second, q in (await row((*ONCE, first))).items():
            joint[first, second] = p * q
    return joint
