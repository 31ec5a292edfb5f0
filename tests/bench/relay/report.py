"""Medians, ratios and the table of the overhead benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]
"""One peer's figures of one round, by what was measured."""


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    names = {name for each in rounds for name in each}
    return {
        name: statistics.median([each[name] for each in rounds if name in each]) for name in names
    }


def ratio(
    rounds: Mapping[str, Sequence[Figures]], ours: str, theirs: str, name: str
) -> float | None:
    """Ours over theirs, each round by itself, and the median of that: noise that lasts longer than
    a round falls on both sides. None if one of them was not measured."""
    pairs = zip(rounds.get(ours, ()), rounds.get(theirs, ()), strict=False)
    found = [a[name] / b[name] for a, b in pairs if name in a and b.get(name)]
    return round(statistics.median(found), 3) if found else None


def table(rounds: Mapping[str, Sequence[Figures]], columns: Mapping[str, str]) -> str:
    """One line for each peer: the median of each column, its smallest and its largest."""
    head = f"{'':<12}" + "".join(f"{title:>24}" for title in columns.values())
    lines = [head]
    for peer, measured in rounds.items():
        line = f"{peer:<12}"
        for name in columns:
            values = [each[name] for each in measured if name in each]
            if not values:
                line += f"{'-':>24}"
                continue
            middle = statistics.median(values)
            line += f"{f'{middle:.1f} ({min(values):.1f}-{max(values):.1f})':>24}"
        lines.append(line)
    return "\n".join(lines)
