"""What decoding costs here, by the rows of a batch: measured once, when a model is loaded.

The model, its quantization, flash attention, the threads and the machine all shift it, so it is
measured in the very context that will serve: a pass over the widths, and more while they are cheap.
On a CPU the process's own seconds count, which no neighbour on the machine can blur; on a GPU,
which they would not show, the clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from backends.engine.payoff import Costs

CPU, WALL = time.process_time, time.perf_counter

WIDTHS = (1, 2, 3, 5, 9)
PASSES = 4
REPEATS = 3
BUDGET_S = 0.5
"""After this no other pass over the widths is begun: a model that is slow shows little noise."""
DEPTH = 24
"""Tokens that are in the cells already."""


class Decodes(Protocol):
    """Of llama.Context what is used here."""

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Any: ...

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None: ...


def costs(
    context: Decodes,
    *,
    widest: int,
    vocab: int,
    clock: Callable[[], float] = CPU,
) -> Costs:
    """Seconds of a decode by its width, every row with its logits. Leaves the cells empty."""
    widths = [width for width in WIDTHS if width < widest] + [widest]
    text = [(31 * at + 7) % vocab for at in range(DEPTH + widest)]
    measured: dict[int, list[float]] = {width: [] for width in widths}
    for start in range(0, DEPTH, widest):
        _decode(context, text, start, min(widest, DEPTH - start))
    began = clock()
    for _ in range(PASSES):
        for width in widths:
            # Plain decoding repeats one shape, whose graph llama.cpp keeps; a draft's is a new one.
            for _ in range(REPEATS if width == 1 else 1):
                before = clock()
                _decode(context, text, DEPTH, width)
                measured[width].append(clock() - before)
                context.remove(0, DEPTH)
        if clock() - began > BUDGET_S:
            break
    context.remove(0)
    return Costs.of({width: min(seconds) for width, seconds in measured.items()})


def _decode(context: Decodes, text: Sequence[int], start: int, width: int) -> None:
    part = list(text[start : start + width])
    context.decode(part, list(range(start, start + width)), [0] * width, [True] * width)
