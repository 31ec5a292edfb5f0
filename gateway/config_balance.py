"""`balance:` of an alias: which of its candidates share the load, and in what proportion.

balance: auto                       # the default: those that are the same in all that matters
balance: off                        # in the order written
balance: [a, b]                     # equal shares
balance: {a: 2, b: 1}               # a takes twice as much
balance: [[a, b], {c: 3, d: 1}]     # two groups
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from gateway.core.flaw import Flaw, Path
from gateway.core.registry import suggest

MOST_WEIGHT = 1000.0
LEAST_WEIGHT = 0.001

_FORMS = "balance is auto, off, a list of candidates, weights like {a: 2, b: 1}, or a list of those"


def _groups(value: object) -> object:
    if value is None or value == "auto":
        return None
    if value is False or value == "off":
        return ()
    return tuple(_group(each) for _, each in _listed(value))


Balance = Annotated[tuple[Mapping[str, float], ...] | None, BeforeValidator(_groups)]
"""Weights by upstream, a mapping for each group; None: found by themselves; (): none."""


def _listed(value: object) -> list[tuple[Path, Any]]:
    """Each group as it was written, and where it is below `balance`."""
    if isinstance(value, Mapping):
        return [((), value)]
    if isinstance(value, list | tuple):
        if all(isinstance(each, str) for each in value):
            return [((), value)]
        return [((at,), each) for at, each in enumerate(value)]
    raise ValueError(_FORMS)


def _group(value: object) -> dict[str, float]:
    if isinstance(value, Mapping):
        weights = {str(name): _weight(weight) for name, weight in value.items()}
    elif isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        weights = dict.fromkeys(value, 1.0)
    else:
        raise ValueError(_FORMS)
    if len(weights) < 2:
        raise ValueError("a group to balance has at least two candidates")
    return weights


def _weight(value: object) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (good and LEAST_WEIGHT <= float(value) <= MOST_WEIGHT):  # type: ignore[arg-type]
        raise ValueError(f"a weight is a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}")
    return float(value)  # type: ignore[arg-type]


def balance_flaws(raw: object, candidates: Sequence[str], alias: Path) -> Iterator[Flaw]:
    """Names in a well-formed `balance:` that are no candidates of the alias, or are there twice."""
    if raw is None or raw is False or isinstance(raw, str):
        return
    seen: set[str] = set()
    for below, group in _listed(raw):
        for at, name in enumerate(group):
            mapping = isinstance(group, Mapping)
            path = (*alias, "balance", *below, name if mapping else at)
            if name not in candidates:
                hint = suggest(name, list(candidates))
                yield Flaw(path, f"{name!r} is not among the candidates{hint}", at_key=mapping)
            elif name in seen:
                yield Flaw(path, f"{name!r} is in a group already", at_key=mapping)
            seen.add(name)
