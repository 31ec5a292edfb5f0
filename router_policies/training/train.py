"""A whole training run: data in, an artifact folder out, with its figures on held-out prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router_policies.learned.artifact import Artifact, load, save
from router_policies.learned.wording import Wording
from router_policies.training.data import BadData, Labelled, folds
from router_policies.training.fit import (
    FEW,
    Predicted,
    Prepared,
    blend_of,
    fit,
    held_out,
    prepare,
)
from router_policies.training.golden import GOLDEN
from router_policies.training.metrics import calibration_error, measure
from router_policies.training.own import SOURCE, Own, joined

FOLDS = 5
QUANTILES = 501
"""Of the held-out scores go into the artifact, for share keepers to start from."""


def wording_from(folder: Path) -> Wording:
    """Token vectors from `vocab.txt` and `vectors_64_int8.npy`; for those who make a new table."""
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vectors = np.load(folder / "vectors_64_int8.npy", allow_pickle=False)
    return Wording(pieces, vectors, np.zeros(1, np.uint8))


def train(
    labelled: Labelled | None,
    wording: Wording,
    out: Path,
    *,
    pairs: Mapping[str, tuple[str, str]],
    data: Sequence[Path] = (),
    own: Own | None = None,
    notes: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Train on all rows, with figures and calibration from folds, and write `out`.

    `labelled` are prompts, `own` what a gateway saw of its traffic; either may be missing.

    Raises BadData for too few rows, ImportError without LightGBM.
    """
    labelled, prepared = _together(labelled, own, wording)
    told(f"{len(labelled.rows)} prompts")
    said = held_out(labelled, prepared, folds([row.group for row in labelled.rows], FOLDS), told)
    blend = blend_of(said)
    scores = said.scores(blend)
    heads = fit(labelled, prepared, np.arange(len(labelled.rows)))
    facts = {
        "pairs": {source: list(pair) for source, pair in pairs.items()},
        "data": [
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in data
        ],
        "rows": len(labelled.rows),
        "own": _told_of(own),
        "metrics": figures(labelled, said, scores),
        **(notes or {}),
    }
    save(
        out,
        trees=heads.trees,
        gain_trees=heads.gain_trees,
        wording=Wording(wording.pieces, wording.vectors, heads.seen),
        blend=blend,
        scores=np.quantile(scores, np.linspace(0, 1, QUANTILES)).tolist(),
        golden=GOLDEN,
        facts=facts,
    )
    return load(out)


def _together(
    labelled: Labelled | None, own: Own | None, wording: Wording
) -> tuple[Labelled, Prepared]:
    """All rows there are. Raises BadData for too few."""
    rows = (len(labelled.rows) if labelled else 0) + (len(own.labelled.rows) if own else 0)
    if rows < FEW:
        of = f" ({own.seen} requests are logged, the rest say nothing)" if own else ""
        raise BadData(f"{rows} labelled prompts{of}; at least {FEW} are needed")
    if own is None:
        assert labelled is not None  # there are rows
        return labelled, prepare([row.prompt for row in labelled.rows], wording, copies=True)
    blank = np.zeros((len(own.numbers), wording.width), np.float32)
    numbers = np.concatenate([own.numbers, blank], axis=1)
    unworded = np.zeros(len(numbers), np.bool_)
    if labelled is None:
        return own.labelled, Prepared(numbers, own.hashes, unworded)
    shown = prepare([row.prompt for row in labelled.rows], wording, copies=True)
    return joined(labelled, own.labelled), Prepared(
        np.concatenate([shown.numbers, numbers]),
        shown.hashes + own.hashes,
        np.concatenate([shown.worded, unworded]),
        shown.copies,
    )


def _told_of(own: Own | None) -> dict[str, Any]:
    if own is None:
        return {"rows": 0}
    return {"rows": len(own.labelled.rows), "requests": own.seen, "signals": dict(own.kinds)}


def figures(labelled: Labelled, said: Predicted, scores: Any) -> dict[str, Any]:
    """APGR with its interval for every source and bench that has at least 200 prompts.

    Not of own traffic: there one side of each outcome is what a router believed.
    """
    known = np.array([row.source != SOURCE for row in labelled.rows])
    found: dict[str, Any] = {}
    if known.any():
        error = calibration_error(said.fails[known], 1 - labelled.weak[known])
        found["calibration_error_weak"] = round(error, 4)
    names = np.array([f"{row.source}/{row.bench}" for row in labelled.rows])
    for name in np.unique(names):
        at = (names == name) & known
        if at.sum() < 200 or labelled.gain[at].sum() <= 0:
            continue
        quality = measure(scores[at], labelled.gain[at], rounds=200)
        found[str(name)] = {
            "apgr": round(quality.apgr, 3),
            "interval": [round(quality.low, 3), round(quality.high, 3)],
            "rows": quality.rows,
        }
    return found
