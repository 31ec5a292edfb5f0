"""What drafting inside the worker brings: generated tokens per CPU-second with it over without.

The bundled target, one thread, one request at a time; runs with and without are interleaved, and
the median of their ratios counts. A model of seven million weights cannot edit a file, so its own
habits stand in: a test class, which it continues by repeating itself; its greedy answers with each
25th token changed as the client's `prediction`, as after an edit; and its free text at temperature
0.8, by lookup alone and with the bundled draft model. Keys (`_no_fa`: without flash attention,
where verifying costs less):

lookup_copy_gain, prediction_gain       where it should pay
lookup_free_ratio, draft_model_ratio    where the controller must know when to stop: >= 0.97
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.engine.client import Engine  # noqa: E402 (the path above)
from backends.engine.prompts import Prompts  # noqa: E402 (the path above)
from backends.engine.protocol import Job, SamplerSettings  # noqa: E402 (the path above)
from backends.engine.settings import EngineSettings  # noqa: E402 (the path above)

BUNDLED = ROOT / "backends" / "engine" / "bundled"
TARGET = BUNDLED / "tandem-demo-target-q8_0.gguf"
DRAFT = BUNDLED / "tandem-demo-draft-q8_0.gguf"
WORDS = "read write open close seek tell flush name mode size".split()
TEMPLATE = """    def test_{0}(self):
        self.assertEqual(self.{0}(), "{0}")
        self.assertRaises(ValueError, self.{0}, None)

"""
FILE = "class TestFile(unittest.TestCase):\n\n" + "".join(map(TEMPLATE.format, WORDS))
EDITED = 25
"""Of an edit's tokens one in so many is changed."""
FREE = (
    "import os\nimport sys\n\n\nclass Stack:\n",
    'def parse(text):\n    """Return a list of words."""\n',
    "import unittest\n\n\nclass TestQueue(unittest.TestCase):\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser()\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`prompts` with the answers' lengths, and the settings of the side that drafts."""

    name: str
    prompts: Sequence[tuple[int, ...]]
    tokens: int
    drafting: Mapping[str, object]
    predictions: Sequence[tuple[int, ...]] = ()
    temperature: float = 0.0
    flash_attention: bool = True


def cpu_seconds(pid: int) -> float:
    """A process's own clock: the kernel's id for it (clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


async def rate(engine: Engine, case: Case) -> float:
    """Generated tokens a CPU-second of the worker, prompts included."""
    assert engine.pid is not None, engine.detail
    before, count = cpu_seconds(engine.pid), 0
    for i, prompt in enumerate(case.prompts):
        asked = Job(
            id=0,
            tokens=prompt,
            max_tokens=case.tokens,
            sampler=SamplerSettings(temperature=case.temperature, seed=i),
            prediction=case.predictions[i] if case.predictions else (),
        )
        async for output in await engine.submit(asked):
            count += len(output.tokens)
    return count / (cpu_seconds(engine.pid) - before)


async def compared(case: Case, runs: int) -> float:
    """The median ratio; the counters are printed beside it."""
    common = {"model": str(TARGET), "context": 2048, "flash_attention": case.flash_attention}
    plain = Engine(EngineSettings(**common))  # type: ignore[arg-type]
    drafting = Engine(EngineSettings(**common, **case.drafting))  # type: ignore[arg-type]
    try:
        await plain.start()
        await drafting.start()
        assert drafting.ready is not None, drafting.detail
        pairs = [(await rate(plain, case), await rate(drafting, case)) for _ in range(runs)]
        stats = await drafting.stats()
        ratios = sorted(with_ / without for without, with_ in pairs)
        rates = [statistics.median(each) for each in zip(*pairs, strict=True)]
        median = statistics.median(ratios)
        print(
            f"{case.name:34} {rates[0]:7.0f} {rates[1]:7.0f} {median:6.2f}"
            f"  ({ratios[0]:.2f} to {ratios[-1]:.2f})  {drafting.ready.meta['speculation']}"
        )
        used = {name: n for name, n in stats.items() if name.startswith("spec_") and n}
        print(f"    {' '.join(f'{name[5:]}={n:g}' for name, n in used.items())}")
        return median
    finally:
        await plain.aclose()
        await drafting.aclose()


async def answers(prompts: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """What the target says by itself, greedily."""
    engine = Engine(EngineSettings(model=str(TARGET), context=2048))
    try:
        await engine.start()
        said = []
        for prompt in prompts:
            tokens: list[int] = []
            async for output in await engine.submit(Job(id=0, tokens=prompt, max_tokens=count)):
                tokens += output.tokens
            said.append(tuple(tokens))
        return said
    finally:
        await engine.aclose()


async def cases() -> dict[str, Case]:
    helper = Prompts(TARGET)
    try:
        await helper.start()
        copy = [await helper.text(f"{FILE}\n\n{FILE[:60]}")]
        free = [await helper.text(text) for text in FREE]
    finally:
        await helper.aclose()
    edited = [
        tuple(9 if at % EDITED == EDITED - 1 else token for at, token in enumerate(said))
        for said in await answers(free, 200)
    ]
    found = {}
    for suffix, flash in (("", True), ("_no_fa", False)):
        where = "" if flash else ", no FA"
        auto: dict[str, object] = {"speculate": "auto"}
        kinds = {
            "lookup_copy_gain": Case(
                name=f"lookup, repetition{where}",
                prompts=copy,
                tokens=200,
                drafting=auto,
                flash_attention=flash,
            ),
            "prediction_gain": Case(
                name=f"prediction, edited{where}",
                prompts=free,
                tokens=200,
                drafting=auto,
                predictions=edited,
                flash_attention=flash,
            ),
            "lookup_free_ratio": Case(
                name=f"lookup, free text{where}",
                prompts=free,
                tokens=200,
                drafting=auto,
                temperature=0.8,
                flash_attention=flash,
            ),
            "draft_model_ratio": Case(
                name=f"draft model, free text{where}",
                prompts=free,
                tokens=200,
                drafting={**auto, "draft": str(DRAFT)},
                temperature=0.8,
                flash_attention=flash,
            ),
        }
        found |= {key + suffix: case for key, case in kinds.items()}
    return found


async def main(runs: int) -> None:
    print(f"{'':34} {'without':>7} {'with':>7} {'ratio':>6}   tokens per CPU-second")
    found = {key: round(await compared(case, runs), 3) for key, case in (await cases()).items()}
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asyncio.run(main(3 if parser.parse_args().quick else 9))
