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
    blend_of,
    fit,
    held_out,
    prepare,
)
from router_policies.training.golden import GOLDEN
from router_policies.training.metrics import calibration_error, measure

FOLDS = 5
QUANTILES = 501
"""Of the held-out scores go into the artifact, for share keepers to start from."""


def wording_from(folder: Path) -> Wording:
    """Token vectors from `vocab.txt` and `vectors_64_int8.npy`; for those who make a new table."""
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vectors = np.load(folder / "vectors_64_int8.npy", allow_pickle=False)
    return Wording(pieces, vectors, np.zeros(1, np.uint8))


def train(
    labelled: Labelled,
    wording: Wording,
    out: Path,
    *,
    pairs: Mapping[str, tuple[str, str]],
    data: Sequence[Path] = (),
    notes: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Train on all rows, with figures and calibration from folds, and write `out`.

    Raises BadData for too few rows, ImportError without LightGBM.
    """
    if len(labelled.rows) < FEW:
        raise BadData(f"{len(labelled.rows)} labelled prompts; at least {FEW} are needed")
    prepared = prepare([row.prompt for row in labelled.rows], wording)
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


def figures(labelled: Labelled, said: Predicted, scores: Any) -> dict[str, Any]:
    """APGR with its interval for every source and bench that has at least 200 prompts."""
    found: dict[str, Any] = {
        "calibration_error_weak": round(calibration_error(said.fails, 1 - labelled.weak), 4)
    }
    names = np.array([f"{row.source}/{row.bench}" for row in labelled.rows])
    for name in np.unique(names):
        at = names == name
        if at.sum() < 200 or labelled.gain[at].sum() <= 0:
            continue
        quality = measure(scores[at], labelled.gain[at], rounds=200)
        found[str(name)] = {
            "apgr": round(quality.apgr, 3),
            "interval": [round(quality.low, 3), round(quality.high, 3)],
            "rows": quality.rows,
        }
    return found
