"""Byte identity: a strict target says the same whatever is drafted (speculation.md 9.3, 2).

Each prompt is answered by the target alone, with a null draft, and again with drafts; tokens, text
and finish must be equal. Greedy, and sampled at temperature 0.8 with the noise of its seed.

`make test` takes a sample. The slow test takes 200 prompts of 256 tokens, each with one of the
drafters in turn; TANDEM_IDENTITY=all takes each with every drafter (an hour).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.engine.client import Engine
from backends.engine.llama import library
from backends.engine.llama.model import Model
from backends.engine.protocol import MAX_DRAFT, Job, Output, SamplerSettings
from backends.engine.settings import EngineSettings
from tests.conftest import BUNDLED

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
FILES = {
    "bundled pair": (
        BUNDLED / "tandem-demo-target-q8_0.gguf",
        BUNDLED / "tandem-demo-draft-q8_0.gguf",
    ),
    "stories260K": (SHARED / "stories260K-q8_0.gguf", SHARED / "stories260K-q4_0.gguf"),
}
SAMPLERS = {
    "greedy": SamplerSettings(),
    "gumbel": SamplerSettings(temperature=0.8, top_k=60, top_p=0.98, min_p=0.005, seed=0),
}
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Knows:
    """What a scripted drafter may look at: the right answer, the second best at each position."""

    right: Sequence[int]
    second: Sequence[int]
    vocab: int
    ends: int
    chance: random.Random


Scripted = Callable[[int, Knows], list[tuple[int, int, list[int]]]]
"""(position, knowledge) → drafts as (epoch added, base, tokens)"""


def empty(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    """Nothing; and where nothing is left, an empty frame."""
    return [(0, at, [])]


def noise(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    return [(0, at, [knows.chance.randrange(knows.vocab) for _ in range(4)])]


def adversarial(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    """Always the second best: as near to right as wrong can be."""
    return [(0, at + i, list(knows.second[at + i : at + i + 8])) for i in range(3)]


def over_long(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    """The right answer and far beyond it, in frames as long as they may be."""
    line = [*knows.right, *([knows.right[-1]] * 300)] if knows.right else [1] * 300
    return [(0, at + i, line[at + i : at + i + MAX_DRAFT]) for i in range(0, 160, MAX_DRAFT)]


def full_of_ends(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    line = list(knows.right[at : at + 8])
    line[knows.chance.randrange(len(line) + 1) :] = [knows.ends] * 3
    return [(0, at, line)]


def stale(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    """Old epochs, positions behind the target, and epochs from the future."""
    behind = max(0, at - 4)
    return [
        (-1, at, list(knows.right[at : at + 6])),
        (0, behind, [*knows.right[behind:at], (knows.right[at - 1] + 1) % knows.vocab]),
        (knows.chance.randrange(3), at, list(knows.right[at : at + 5])),
    ]


def uneven(at: int, knows: Knows) -> list[tuple[int, int, list[int]]]:
    """Right for a while, then wrong: every width, and a mismatch at every place."""
    keep = knows.chance.randrange(8)
    wrong = [knows.chance.randrange(knows.vocab) for _ in range(2)]
    return [(0, at + i, [*knows.right[at + i : at + i + keep], *wrong]) for i in range(2)]


SCRIPTED: dict[str, Scripted] = {
    "empty": empty,
    "random": noise,
    "adversarial": adversarial,
    "over-long": over_long,
    "ends": full_of_ends,
    "stale": stale,
    "uneven": uneven,
}
LIVE = ("good", "same")
"""A real drafter beside the target: the smaller model, and the target's own."""
DRAFTERS = (*LIVE, *SCRIPTED)


@dataclass(slots=True)
class Said:
    outputs: list[Output]

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.tokens]

    @property
    def same(self) -> tuple[list[int], bytes, str | None]:
        text = b"".join(output.text for output in self.outputs)
        return self.tokens, text, self.outputs[-1].finish

    @property
    def accepted(self) -> int:
        return sum(output.accepted for output in self.outputs)


async def alone(engine: Engine, job: Job) -> Said:
    sequence = await engine.submit(job)
    try:
        return Said([output async for output in sequence])
    finally:
        await sequence.aclose()


async def scripted(engine: Engine, job: Job, drafter: Scripted, knows: Knows) -> Said:
    """Draft after every output for where the target will be next."""
    said = Said([])
    sequence = await engine.submit(job)
    try:
        async for output in sequence:
            said.outputs.append(output)
            if output.finish is None:
                # Two places further: the worker goes on while this is on its way.
                at = output.base + len(output.tokens)
                for place in (at, at + 1, at + 2):
                    for added, base, tokens in drafter(min(place, len(knows.right)), knows):
                        sequence.draft(max(0, output.epoch + added), base, tokens[:MAX_DRAFT])
        return said
    finally:
        await sequence.aclose()


async def live(engine: Engine, drafter: Engine, job: Job) -> Said:
    """A drafter as the edge has it: it leads, is told of every commit, and rewinds."""
    said = Said([])
    guess = Job(
        id=0, tokens=job.tokens, max_tokens=job.max_tokens, sampler=job.sampler, role="draft",
        ahead=8,
    )  # fmt: skip
    target, ahead = await engine.submit(job), await drafter.submit(guess)

    async def propose() -> None:
        async for output in ahead:
            target.draft(output.epoch, output.base, output.tokens)

    proposing = asyncio.create_task(propose())
    try:
        async for output in target:
            said.outputs.append(output)
            ahead.sync(output.epoch, output.base, output.tokens)
        return said
    finally:
        proposing.cancel()
        await asyncio.gather(proposing, return_exceptions=True)
        await asyncio.gather(target.aclose(), ahead.aclose())


class Pair:
    """Both workers of a pair, and what is needed to ask them."""

    def __init__(self, target: Path, draft: Path) -> None:
        self._vocabulary = Model(target, vocab_only=True)
        self.vocab, self.ends = self._vocabulary.tokens, self._vocabulary.eos
        self._ids = {piece: id for id, piece in enumerate(self._vocabulary.pieces(special=True))}
        self.target = Engine(
            EngineSettings(model=str(target), context=512, slots=SLOTS, strict=True)
        )
        self.drafts = {
            "good": Engine(EngineSettings(model=str(draft), context=512, slots=SLOTS)),
            "same": Engine(EngineSettings(model=str(target), context=512, slots=SLOTS)),
        }
        self.accepted: dict[str, int] = {}

    async def __aenter__(self) -> Pair:
        engines = [self.target, *self.drafts.values()]
        await asyncio.gather(*(engine.start() for engine in engines))
        assert all(engine.ready is not None for engine in engines)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(
            self.target.aclose(), *(engine.aclose() for engine in self.drafts.values())
        )
        self._vocabulary.close()

    def prompt(self, number: int) -> tuple[int, ...]:
        chance = random.Random(number)
        words = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 40)))
        text = f"{chance.choice(BEGINNINGS)}{words}{chance.choice(ENDINGS)}"
        tokens = self._vocabulary.tokenize(text.encode(), add_special=True, parse_special=True)
        return tuple(tokens[:200])

    def second(self, reference: Said) -> list[int]:
        """The runner-up at each position, from the reference's log-probabilities."""
        found: list[int] = []
        tokens = iter(reference.tokens)
        for output in reference.outputs:
            for data, _, top in output.logprobs:
                said = next(tokens)
                other = next((d for d, _ in top if d != data), data)
                found.append(self._ids.get(other, (said + 1) % self.vocab))
        return found

    async def differs(self, number: int, settings: SamplerSettings, drafters: Sequence[str],
                      length: int) -> dict[str, bool]:  # fmt: skip
        """By drafter, whether it changed the answer to a prompt."""
        if settings.temperature:
            settings = replace(settings, seed=1_000 + number)
        job = Job(
            id=0,
            tokens=self.prompt(number),
            max_tokens=1 if number % 50 == 49 else length,
            sampler=settings,
            stop=(b"\n\n\n",) if number % 10 == 3 else (),
            role="target",
            strict=True,
            logprobs=2 if "adversarial" in drafters else None,
        )
        reference = await alone(self.target, job)
        knows = Knows(
            reference.tokens, self.second(reference), self.vocab, self.ends, random.Random(number)
        )
        plain = replace(job, logprobs=None)
        changed = {}
        for name in drafters:
            if name in LIVE:
                said = await live(self.target, self.drafts[name], plain)
            else:
                said = await scripted(self.target, plain, SCRIPTED[name], knows)
            changed[name] = said.same != reference.same
            self.accepted[name] = self.accepted.get(name, 0) + said.accepted
        return changed


BEGINNINGS = ("", "Once upon a time ", "def ", "What is ", "class Stack:\n    ", "naïve 東京 🙂 ")
ENDINGS = ("", ".", "?\n", ":\n    ", " and then", "\n\n")
WORDS = (
    "the a little girl boy dog cat was went to park and said yes no happy big red ball house tree"
    " self return import list dict print for if in range open read write file path name value key"
).split()


async def differing(
    name: str,
    sampler: str,
    numbers: Sequence[int],
    length: int,
    each: Callable[[int], tuple[str, ...]],
) -> tuple[list[tuple[int, str]], dict[str, int]]:
    """Which prompts came out otherwise with which drafter, and how many drafted tokens held."""
    target, draft = FILES[name]
    if not target.is_file() or not draft.is_file():
        pytest.skip(f"no {target.name} here")
    async with Pair(target, draft) as pair:
        gate = asyncio.Semaphore(SLOTS)
        wrong: list[tuple[int, str]] = []

        async def one(number: int) -> None:
            async with gate:
                changed = await pair.differs(number, SAMPLERS[sampler], each(number), length)
                wrong.extend((number, drafter) for drafter, bad in changed.items() if bad)

        await asyncio.gather(*(one(number) for number in numbers))
        return wrong, pair.accepted


@pytest.fixture(scope="module", autouse=True)
def _library(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("llama_cpp")
    library.start()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", FILES)
def test_a_sample_is_identical(name: str, sampler: str) -> None:
    """Four prompts of 64 tokens with every drafter: no token, byte or finish differs."""
    used: Counter[str] = Counter()
    for _ in range(5):  # on a busy machine a quick target may be ahead of all that a drafter says
        wrong, accepted = asyncio.run(
            differing(name, sampler, (0, 3, 7, 49), 64, lambda number: DRAFTERS)
        )
        assert wrong == []
        used.update(accepted)
        if all(used[drafter] for drafter in ("good", "same", "over-long", "uneven")):
            return
    pytest.fail(f"some drafts were never used, so nothing was shown: {dict(used)}")
    assert accepted["empty"] == 0


ALL = os.environ.get("TANDEM_IDENTITY") == "all"
PROMPTS = 200
"""One of the pair takes 1.3 s of CPU time for each way of sampling, one of the stories 0.9 s."""


@pytest.mark.slow
@pytest.mark.timeout(7_200 if ALL else 1_800)
@pytest.mark.parametrize("name", FILES)
def test_all_prompts_are_identical(name: str) -> None:
    """256 tokens of each, greedy and sampled side by side: 0 differing bytes."""

    def each(number: int) -> tuple[str, ...]:
        return DRAFTERS if ALL else (DRAFTERS[number % len(DRAFTERS)],)

    async def both() -> list[tuple[list[tuple[int, str]], dict[str, int]]]:
        numbers = range(PROMPTS)
        return await asyncio.gather(
            *(differing(name, sampler, numbers, 256, each) for sampler in SAMPLERS)
        )

    for wrong, accepted in asyncio.run(both()):
        assert wrong == []
        assert sum(accepted.values()) > 1_000
