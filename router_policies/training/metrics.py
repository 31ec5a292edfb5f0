"""How good a ranking of prompts is: quality recovered against the share sent to the strong model.

PGR(c) is the share of the quality gap between the weak and the strong model that is closed when
the share c of prompts with the highest scores goes to the strong one; APGR is the area under it
(0.5 for chance), CPT(x) the smallest share with PGR >= x (Ong et al., RouteLLM, arXiv 2406.18665).
Exact here, not in ten bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 20_261_123


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A router's figures on one set, with 95 % bootstrap intervals of APGR."""

    apgr: float
    low: float
    high: float
    cpt50: float
    cpt80: float
    rows: int


def curve(scores: Floats, gain: Floats) -> Floats:
    """PGR after 0, 1, … n prompts went to the strong model. Ties share what they gain."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores, gained = scores[order], gain[order].astype(float)
    # Equal scores are one step: each gets their mean, or the order in the file would count.
    starts = np.flatnonzero(np.diff(sorted_scores, prepend=np.inf))
    sizes = np.diff(np.append(starts, len(gained)))
    even = np.repeat(np.add.reduceat(gained, starts) / sizes, sizes)
    total = float(even.sum())
    closed = np.concatenate([[0.0], np.cumsum(even)])
    return closed / total if total else np.full(len(closed), np.nan)


def apgr(scores: Floats, gain: Floats) -> float:
    """Area under PGR; nan where the strong model is no better."""
    line = curve(scores, gain)
    return float(np.trapezoid(line, dx=1.0 / (len(line) - 1)))


def cpt(scores: Floats, gain: Floats, share: float) -> float:
    """The smallest share of strong calls that closes `share` of the gap; 1 if none does."""
    line = curve(scores, gain)
    reached = np.flatnonzero(line >= share)
    return float(reached[0] / (len(line) - 1)) if len(reached) else 1.0


def measure(scores: Floats, gain: Floats, rounds: int = 500) -> Quality:
    """All figures of one router on one set."""
    rng = np.random.default_rng(SEED)
    count = len(gain)
    drawn = []
    for _ in range(rounds):
        at = rng.integers(0, count, count)
        if gain[at].sum() > 0:
            drawn.append(apgr(scores[at], gain[at]))
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (np.nan, np.nan)
    return Quality(
        apgr=apgr(scores, gain),
        low=float(low),
        high=float(high),
        cpt50=cpt(scores, gain, 0.5),
        cpt80=cpt(scores, gain, 0.8),
        rows=count,
    )


def calibration_error(predicted: Floats, happened: Floats, bins: int = 10) -> float:
    """Expected calibration error over bins of equal size: mean |predicted - happened|."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(predicted[part].mean() - happened[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(predicted))
