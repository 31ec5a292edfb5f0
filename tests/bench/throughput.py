"""Generated tokens per CPU-second of several sides on one model, in interleaved rounds.

In each round every side answers the same new prompts, one side after another, so that what else the
machine does falls on all of them. Ratios are taken within a round and then their median.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.peers import Gateway, Side

WORDS = (
    "time space little girl dog ran home happy tree big box day was play with very said new one "
    "park his her mom find went up down sun"
).split()


@dataclass(frozen=True, slots=True)
class Load:
    """`streams` prompts of some 60 tokens at once, `tokens` generated each, `times` in a row."""

    streams: int
    tokens: int
    times: int = 1

    @property
    def generated(self) -> int:
        return self.streams * self.tokens * self.times


def prompts(count: int, seed: str, words: int = 45) -> list[str]:
    """No two of them, of no two seeds, begin alike: nothing here is saved by a prefix cache."""
    source = random.Random(seed)
    return [" ".join(source.choice(WORDS) for _ in range(words)) for _ in range(count)]


@dataclass(slots=True)
class Figures:
    """(side, streams) → tokens per CPU-second, a value for each round.

    `front`, in microseconds a token, is what the gateway spends outside the worker, the requests'
    beginnings included; `streamed` is without them: a token beyond the first, at most streams.
    """

    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    front: dict[int, list[float]] = field(default_factory=dict)
    streamed: list[float] = field(default_factory=list)

    def ratio(self, ours: str, theirs: str, streams: int) -> list[float]:
        both = zip(self.rates[ours, streams], self.rates[theirs, streams], strict=True)
        return [a / b for a, b in both]

    def table(self) -> str:
        sides = list(dict.fromkeys(side for side, _ in self.rates))
        levels = list(dict.fromkeys(streams for _, streams in self.rates))
        lines = [f"{'':18}" + "".join(f"{f'{n} streams':>22}" for n in levels)]
        for side in sides:
            cells = "".join(f"{told(self.rates[side, n]):>22}" for n in levels)
            lines.append(f"{side:18}{cells}")
        cells = "".join(f"{told(self.front[n]):>22}" for n in levels if n in self.front)
        lines.append(f"{'HTTP+SSE, us/token':18}{cells}")
        return "\n".join(lines)


async def measure(sides: Sequence[Side], loads: Sequence[Load], rounds: int, seed: str) -> Figures:
    """One unmeasured round first: pages, caches, just-in-time tables."""
    figures = Figures()
    for number in range(rounds + 1):
        for load in loads:
            for side in sides:
                await _one(side, load, f"{seed} {number}", figures if number else Figures())
        for side in sides:
            if number and isinstance(side, Gateway):
                await _beyond_the_first(side, loads[-1], f"{seed} {number} first", figures)
    return figures


async def _one(side: Side, load: Load, seed: str, figures: Figures) -> None:
    asked = [prompts(load.streams, f"{seed} {load.streams} {i}") for i in range(load.times)]
    await side.prepare([prompt for each in asked for prompt in each])
    front = side.front() if isinstance(side, Gateway) else 0.0
    before = side.cpu()
    for each in asked:
        await side.run(each, load.tokens)
    used = side.cpu() - before
    figures.rates.setdefault((side.name, load.streams), []).append(load.generated / used)
    if isinstance(side, Gateway):
        each = (side.front() - front) / load.generated * 1e6
        figures.front.setdefault(load.streams, []).append(each)


async def _beyond_the_first(side: Gateway, load: Load, seed: str, figures: Figures) -> None:
    before = side.front()
    await side.run(prompts(load.streams, seed), 1)
    beginnings = (side.front() - before) * 1e6
    whole = figures.front[load.streams][-1] * load.generated / load.times
    figures.streamed.append((whole - beginnings) / (load.streams * (load.tokens - 1)))


def told(values: Sequence[float]) -> str:
    """median (smallest to largest)"""
    digits = 2 if max(values) < 20 else 0 if max(values) > 500 else 1
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({low}-{high})"
