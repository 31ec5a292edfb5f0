"""A small router artifact of random trees over a small vocabulary, for tests of what reads one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router_policies.learned import artifact
from router_policies.learned.features import NAMES
from router_policies.learned.model import Blend
from router_policies.learned.trees import LEAVES, NODES, Trees
from router_policies.learned.wording import Wording

WORDS = "what is the sum of two numbers prove that a cat sat on mat ##s ##ing zebra 2 3".split()
WIDTH = 4
GOLDEN = ("What is the sum of 2 and 3?", "the cat sat on the mat", "?")


def trees(count: int, seed: int = 0, features: int = len(NAMES) + WIDTH) -> Trees:
    """Random trees of every size from a single leaf to the largest."""
    rng = np.random.default_rng(seed)
    left = np.zeros((NODES, count), np.int32)
    right = np.zeros((NODES, count), np.int32)
    sizes = rng.integers(0, NODES + 1, count).astype(np.int32)
    for tree in range(count):
        _grow(left[:, tree], right[:, tree], int(sizes[tree]), rng)
    return Trees(
        feature=rng.integers(0, features, (NODES, count)).astype(np.int32),
        threshold=rng.normal(size=(NODES, count)).astype(np.float32),
        left=left,
        right=right,
        leaf=rng.normal(size=(count, LEAVES)).astype(np.float32) / count,
        node=rng.normal(size=(count, NODES)).astype(np.float32) / count,
        sizes=sizes,
    )


def _grow(
    left: NDArray[np.int32], right: NDArray[np.int32], size: int, rng: np.random.Generator
) -> None:
    """Split random leaves until there are `size` inner nodes, in the columns given."""
    open_ends: list[tuple[NDArray[np.int32], int]] = []
    for node in range(size):
        if node:
            side, parent = open_ends.pop(int(rng.integers(len(open_ends))))
            side[parent] = node
        open_ends += [(left, node), (right, node)]
    for leaf, (side, parent) in enumerate(open_ends):
        side[parent] = ~leaf


def wording(seed: int = 0) -> Wording:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-127, 128, (len(WORDS), WIDTH)).astype(np.int8)
    seen = rng.integers(0, 256, 64).astype(np.uint8)
    return Wording(WORDS, vectors, seen)


def save(folder: Path, seed: int = 0) -> Path:
    """Write one to a folder."""
    artifact.save(
        folder,
        trees=trees(12, seed),
        gain_trees=7,
        wording=wording(seed),
        blend=Blend(known=0.4, novel=0.8, lean=0.2, mean_gain=0.1, mean_fails=0.4),
        scores=np.linspace(-1, 1, 101).tolist(),
        golden=GOLDEN,
        facts={"rows": 0},
    )
    return folder
