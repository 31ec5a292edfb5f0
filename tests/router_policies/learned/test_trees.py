"""Forests: all comparisons at once must say what a walk from node to node says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_policies.learned.trees import LEAVES, NODES, Forest, Shape, Trees, check
from tests.fakes.artifact import trees

FEATURES = 9


def walked(given_trees: Trees, row: np.ndarray, tree: int) -> np.float32:
    """The slow, obvious way."""
    at = 0 if given_trees.sizes[tree] else ~0
    while at >= 0:
        passed = row[given_trees.feature[at, tree]] <= given_trees.threshold[at, tree]
        at = int((given_trees.left if passed else given_trees.right)[at, tree])
    value: np.float32 = given_trees.leaf[tree, ~at]
    return value


@given(seed=st.integers(0, 10_000))
def test_a_forest_says_what_its_trees_say(seed: int) -> None:
    """Each tree's value is that of the leaf which a walk ends in, ties at thresholds included."""
    each = trees(20, seed, FEATURES)
    check(each, FEATURES)
    forest = Forest(each)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, FEATURES)).astype(np.float32)
    rows[0] = each.threshold[0, 0]  # exactly at a threshold: left
    for row in rows:
        assert forest.leaves(row).tolist() == [walked(each, row, tree) for tree in range(20)]


@given(seed=st.integers(0, 10_000), cut=st.integers(0, 20))
def test_contributions_add_up(seed: int, cut: int) -> None:
    """Start and parts of some trees are together what these trees say."""
    each = trees(20, seed, FEATURES)
    forest = Forest(each)
    row = np.random.default_rng(seed).normal(size=FEATURES).astype(np.float32)
    for start, stop in ((0, cut), (cut, 20)):
        base, parts = forest.contributions(row, start, stop)
        said = float(forest.leaves(row)[start:stop].astype(float).sum())
        assert base + sum(parts.values()) == pytest.approx(said, abs=1e-6)


def changed(name: str, at: tuple[int, ...], value: float) -> Trees:
    each = trees(5, 3, FEATURES)
    each = replace(each, sizes=np.full(5, NODES, np.int32), **_full())
    array = getattr(each, name).copy()
    array[at] = value
    return replace(each, **{name: array})


def _full() -> dict[str, np.ndarray]:
    """Five chains of the greatest length."""
    left = np.tile(~np.arange(NODES, dtype=np.int32)[:, None], (1, 5))
    right = np.tile(np.arange(1, NODES + 1, dtype=np.int32)[:, None], (1, 5))
    right[-1] = ~NODES
    return {"left": left, "right": right}


def test_the_longest_chain_is_a_tree() -> None:
    """Sixteen leaves in a row pass the check and are walked right."""
    each = changed("leaf", (0, 0), 1.0)
    check(each, FEATURES)
    row = np.zeros(FEATURES, np.float32)
    assert Forest(each).leaves(row).tolist() == [walked(each, row, tree) for tree in range(5)]
    assert len(Forest(each).leaves(row)) == 5 and LEAVES == NODES + 1


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("feature", (0, 0), FEATURES),
        ("feature", (0, 0), -1),
        ("threshold", (0, 0), np.nan),
        ("leaf", (0, 0), np.inf),
        ("node", (0, 0), -np.inf),
        ("sizes", (0,), NODES + 1),
        ("sizes", (0,), -1),
        ("sizes", (0,), 3),
        ("right", (5, 0), 5),
        ("right", (5, 0), 0),
        ("right", (5, 0), NODES),
        ("left", (5, 0), 6),
        ("left", (5, 0), ~0),
        ("left", (5, 0), ~100),
    ],
)
def test_what_is_no_forest_is_refused(name: str, at: tuple[int, ...], value: float) -> None:
    """An index out of range, a cycle, a leaf with two parents, a number that is none."""
    with pytest.raises(Shape):
        check(changed(name, at, value), FEATURES)
