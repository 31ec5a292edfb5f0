"""Labelled prompts: which models answered them how well, and what the heads learn from that.

A file has JSON lines, gzipped or not: {"prompt", "scores": {model: 0..1}} and, where known, "id",
"group" (near-duplicates share one), "bench", "cat" and "source" (rows of a source were answered by
the same models).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIMILAR = 0.08
"""Models whose accuracy on a source differs by no more lend each other their outcomes as labels."""
AKIN = 0.2
"""The same, wider, for what models like the weak one fail at: that is nearly the prompt's own."""

TAIL = "\nAnswer:"
"""Some sets end every prompt so. It says where a prompt is from, and nothing about the prompt."""

Floats = NDArray[np.float64]


class BadData(ValueError):
    """A data file that cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt with its outcomes. `scores` maps a model to 0..1."""

    id: str
    source: str
    bench: str
    category: str
    group: str
    prompt: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Rows with what the weak and the strong model of their source achieved.

    `weak` and `strong` are the outcomes as they are; `soft_weak` and `soft_strong` are averaged
    with similar models' outcomes, `fails` with those of all that are at all like the weak one.
    Evaluation takes the first two only. `weight` is how much a row's outcomes are to be believed.
    """

    rows: tuple[Row, ...]
    weak: Floats
    strong: Floats
    soft_weak: Floats
    soft_strong: Floats
    fails: Floats
    weight: Floats

    @property
    def gain(self) -> Floats:
        """What the strong model added."""
        return self.strong - self.weak

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Labelled:
        """Some of the rows, by index or by flag."""
        at = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Labelled(
            rows=tuple(self.rows[i] for i in at),
            weak=self.weak[at],
            strong=self.strong[at],
            soft_weak=self.soft_weak[at],
            soft_strong=self.soft_strong[at],
            fails=self.fails[at],
            weight=self.weight[at],
        )


def read(paths: Iterable[Path]) -> list[Row]:
    """All rows of some files. Raises BadData, OSError."""
    rows: list[Row] = []
    for path in paths:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_row(line, f"{path.name}:{number}", path.name.split(".")[0]))
    return rows


def _row(line: str, where: str, source: str) -> Row:
    try:
        raw = json.loads(line)
        prompt = str(raw["prompt"]).removesuffix(TAIL)
        scores = {str(model): float(score) for model, score in raw["scores"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{where}: expects prompt and scores ({type(error).__name__})"
        raise BadData(message) from None
    if not all(0 <= score <= 1 for score in scores.values()):
        raise BadData(f"{where}: a score is from 0 to 1")
    return Row(
        id=str(raw.get("id", where)),
        source=str(raw.get("source", source)),
        bench=str(raw.get("bench", "")),
        category=str(raw.get("cat", "")),
        group=str(raw.get("group") or hashlib.sha256(prompt.encode()).hexdigest()[:16]),
        prompt=prompt,
        scores=scores,
    )


def label(rows: Sequence[Row], pairs: Mapping[str, tuple[str, str]]) -> Labelled:
    """The rows that both models of their source's (weak, strong) pair answered.

    Raises BadData if none is left.
    """
    kept = [r for r in rows if r.source in pairs and set(pairs[r.source]) <= r.scores.keys()]
    if not kept:
        raise BadData("no row was answered by both models of a pair")
    near = {
        (source, model, width): _near(rows, model, pair, width)
        for source, pair in pairs.items()
        for rows in [[row for row in kept if row.source == source]]
        for model in pair
        for width in (SIMILAR, AKIN)
    }

    def outcomes(which: int, width: float = 0.0) -> Floats:
        means = []
        for row in kept:
            model = pairs[row.source][which]
            lending = near[row.source, model, width] if width else (model,)
            said = [row.scores[each] for each in lending if each in row.scores]
            means.append(sum(said) / len(said))
        return np.array(means)

    return Labelled(
        rows=tuple(kept),
        weak=outcomes(0),
        strong=outcomes(1),
        soft_weak=outcomes(0, SIMILAR),
        soft_strong=outcomes(1, SIMILAR),
        fails=1.0 - outcomes(0, AKIN),
        weight=np.ones(len(kept)),
    )


def _near(rows: Sequence[Row], model: str, pair: tuple[str, str], width: float) -> tuple[str, ...]:
    """The model and those that are about as good on these rows, the pair's other one apart."""
    accuracy = _accuracies(rows)
    if model not in accuracy:
        return (model,)
    close = (m for m, mean in accuracy.items() if abs(mean - accuracy[model]) <= width)
    return (model, *(other for other in close if other not in pair))


def _accuracies(rows: Sequence[Row]) -> dict[str, float]:
    said: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for model, score in row.scores.items():
            said[model].append(score)
    # A model that answered only a few of the rows is not comparable.
    return {m: float(np.mean(each)) for m, each in said.items() if len(each) > len(rows) / 2}


def folds(groups: Sequence[str], count: int) -> NDArray[np.intp]:
    """A fold for each row, by a hash of its group: near-duplicates are never apart."""
    digests = (hashlib.sha256(group.encode()).digest() for group in groups)
    return np.array([int.from_bytes(each[:8], "big") % count for each in digests], np.intp)
