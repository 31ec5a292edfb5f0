"""What a router is worth on labelled prompts: quality by set and field, and the share it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_policies.learned.share import ShareKeeper
from router_policies.training.data import Floats, Labelled
from router_policies.training.domains import domain
from router_policies.training.metrics import Quality, apgr, measure

FEW = 150
"""Rows below which a cell's figure is noise."""
SMALL_GAIN = 0.05
"""Gap between the models below which there is nothing to route for."""
REPLAYED = 2000
SETTLED = 500
"""Requests after which a share is held to account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One source's rows of one field: APGR where the field was left out of training."""

    field: str
    source: str
    rows: int
    apgr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A replay: the share sent after `SETTLED` requests, and the extremes of its windows."""

    set: str
    order: str
    target: float
    share: float
    low: float
    high: float


def sets(labelled: Labelled) -> dict[str, NDArray[np.bool_]]:
    """The rows of each benchmark that one pair of models answered, by name; all of them, `all`."""
    sources = np.array([row.source for row in labelled.rows])
    benches = np.array([row.bench or row.source for row in labelled.rows])
    found: dict[str, NDArray[np.bool_]] = {}
    for source in dict.fromkeys(sources.tolist()):
        for bench in dict.fromkeys(benches[sources == source].tolist()):
            at = (sources == source) & (benches == bench)
            if at.sum() >= FEW and labelled.gain[at].mean() >= SMALL_GAIN:
                found[f"{bench} ({source})" if bench != source else source] = at
    return found


def compare(
    labelled: Labelled, routers: Mapping[str, Floats], at: NDArray[np.bool_], rounds: int = 500
) -> dict[str, Quality]:
    """Each router's figures on some rows, the oracle's last."""
    gain = labelled.gain[at]
    found = {name: measure(scores[at], gain, rounds) for name, scores in routers.items()}
    return {**found, "oracle": measure(gain, gain, rounds)}


def cells(labelled: Labelled, scores: Floats) -> list[Cell]:
    """APGR of each field within each source, for scores of routers that never saw the field."""
    fields = np.array([domain(row) for row in labelled.rows])
    sources = np.array([row.source for row in labelled.rows])
    found = []
    for each in np.unique(fields):
        for source in np.unique(sources):
            at = (fields == each) & (sources == source)
            gain = labelled.gain[at]
            if at.sum() >= FEW and gain.mean() >= SMALL_GAIN:
                cell = Cell(
                    field=str(each), source=str(source), rows=len(gain), apgr=apgr(scores[at], gain)
                )
                found.append(cell)
    return found


def by_field(found: Sequence[Cell]) -> dict[str, float]:
    """APGR of each field, its sources weighted by their rows."""
    rows: dict[str, list[Cell]] = {}
    for cell in found:
        rows.setdefault(cell.field, []).append(cell)
    return {
        field: sum(c.apgr * c.rows for c in each) / sum(c.rows for c in each)
        for field, each in rows.items()
    }


def replay(
    labelled: Labelled,
    scores: Floats,
    at: NDArray[np.bool_],
    *,
    name: str,
    target: float,
    start: Sequence[float],
    drifted: bool,
) -> Share:
    """Send some rows' scores past a share keeper, shuffled or one field after the other.

    Few rows come round again until there are `REPLAYED`. `start` is what the keeper begins with.
    """
    rng = np.random.default_rng(0)
    index = np.resize(rng.permutation(np.flatnonzero(at)), REPLAYED)
    if drifted:
        # By field and category, in the order of their mean score: as bad a drift as the set has.
        kinds = np.array([f"{domain(labelled.rows[i])}/{labelled.rows[i].category}" for i in index])
        means = {kind: scores[index[kinds == kind]].mean() for kind in np.unique(kinds)}
        index = index[np.argsort([means[kind] for kind in kinds], kind="stable")]
    keeper = ShareKeeper(target, start)
    sent = []
    for score in scores[index].tolist():
        strong = keeper.rank(score) >= keeper.cut
        keeper.note(score, strong=strong)
        sent.append(strong)
    windows = np.convolve(sent, np.ones(SETTLED) / SETTLED, mode="valid")[SETTLED:]
    return Share(
        set=name,
        order="drifted" if drifted else "shuffled",
        target=target,
        share=float(np.mean(sent[SETTLED:])),
        low=float(windows.min()),
        high=float(windows.max()),
    )
