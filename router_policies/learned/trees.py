"""Boosted regression trees in numpy: every comparison at once, no walk from node to node.

Each inner node has a mask that clears the leaves under its left child. A row's tests all run in one
vector comparison; the masks of failed tests are combined by AND; the leftmost leaf that is left is
the one the row falls into (Lucchese et al., QuickScorer, SIGIR 2015). So a tree may have at most 16
leaves, and no shape of tree can make evaluation longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAVES = 16
NODES = LEAVES - 1
FULL = 0xFFFF
"""The mask of a node that takes nothing away: all leaves are left."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """A forest as arrays, one column for each tree, shorter trees padded.

    A row goes left at a node if `row[feature] <= threshold`. `left` and `right` are a node of the
    same tree, or ~leaf; a node comes before its children. `leaf` and `node` are the values of
    leaves and the mean values of nodes, `trees × 16` and `trees × 15`. A tree of one leaf has no
    node.
    """

    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    leaf: Floats
    node: Floats
    sizes: Integers
    """Inner nodes of each tree."""


class Shape(ValueError):
    """Arrays that are not a forest; the message says what is wrong with them."""


def check(trees: Trees, features: int) -> None:
    """Raise `Shape` unless every index is in range and each tree is a tree."""
    count = trees.sizes.shape[0] if trees.sizes.ndim == 1 else -1
    wide, deep = (NODES, count), (count, NODES)
    shapes = {
        "feature": wide, "threshold": wide, "left": wide, "right": wide,
        "leaf": (count, LEAVES), "node": deep, "sizes": (count,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(trees, name)
        whole = name in ("feature", "left", "right", "sizes")
        if array.shape != shape or array.dtype != (np.int32 if whole else np.float32):
            raise Shape(f"{name} has the wrong shape or type")
        if not whole and not np.isfinite(array).all():
            raise Shape(f"{name} has a value that is not finite")
    if count and (trees.sizes.min() < 0 or trees.sizes.max() > NODES):
        raise Shape("a tree has too many nodes")
    if trees.feature.size and (trees.feature.min() < 0 or trees.feature.max() >= features):
        raise Shape("a node asks for a feature that there is not")
    for tree in range(count):
        _check_tree(trees, tree)


def _check_tree(trees: Trees, tree: int) -> None:
    size = int(trees.sizes[tree])
    children = [*trees.left[:size, tree].tolist(), *trees.right[:size, tree].tolist()]
    for node in range(size):
        for child in (children[node], children[size + node]):
            if child >= 0 and not node < child < size:
                raise Shape("a child is not a later node of its tree")
    inner = sorted(child for child in children if child >= 0)
    leaves = sorted(~child for child in children if child < 0)
    if size and (inner != list(range(1, size)) or leaves != list(range(size + 1))):
        raise Shape("a node or leaf has no parent or two")


class Forest:
    """A checked forest, ready to be asked. Several heads are several runs of its trees."""

    def __init__(self, trees: Trees) -> None:
        count = trees.sizes.shape[0]
        self.trees = trees
        self._orders = [_order(trees, tree) for tree in range(count)]
        masks = np.full((NODES, count), FULL, np.uint16)
        values = np.zeros((count, LEAVES), np.float32)
        for tree, order in enumerate(self._orders):
            places = {leaf: place for place, leaf in enumerate(order)}
            for place, leaf in enumerate(order):
                values[tree, place] = trees.leaf[tree, leaf]
            for node in range(int(trees.sizes[tree])):
                under = _leaves(trees, tree, int(trees.left[node, tree]))
                for leaf in under:
                    masks[node, tree] &= FULL ^ (1 << places[leaf])
        self._values = values.ravel()
        # A failed test keeps its mask, a passed one has all bits: OR with 0xFFFF where it passed.
        self._masks = masks
        self._rows = np.arange(count, dtype=np.intp) * LEAVES
        # Padding passes always: x <= inf.
        threshold = trees.threshold.copy()
        for tree in range(count):
            threshold[int(trees.sizes[tree]) :, tree] = np.inf
        self._threshold = threshold
        self._feature = trees.feature.astype(np.intp)

    def leaves(self, row: Floats) -> Floats:
        """What each tree says of a row of finite numbers."""
        passed = row.take(self._feature) <= self._threshold
        left = np.bitwise_and.reduce(self._masks | -passed.astype(np.uint16), axis=0)
        place = _LOWEST.take(left)
        return self._values.take(self._rows + place)

    def contributions(self, row: Floats, start: int, stop: int) -> tuple[float, dict[int, float]]:
        """The sum of some trees, split: where they start, and what each feature added.

        A step from a node to its child counts for the node's feature, by the difference of the two
        values (Saabas 2014). The start and all parts add up to the trees' sum.
        """
        trees, base, parts = self.trees, 0.0, dict[int, float]()
        for tree in range(start, stop):
            if not trees.sizes[tree]:
                base += float(trees.leaf[tree, 0])
                continue
            at = 0
            base += float(trees.node[tree, 0])
            while at >= 0:
                feature = int(trees.feature[at, tree])
                goes_left = row[feature] <= trees.threshold[at, tree]
                child = int((trees.left if goes_left else trees.right)[at, tree])
                after = trees.node[tree, child] if child >= 0 else trees.leaf[tree, ~child]
                step = float(after) - float(trees.node[tree, at])
                parts[feature] = parts.get(feature, 0.0) + step
                at = child
        return base, parts


def _order(trees: Trees, tree: int) -> list[int]:
    """A tree's leaves from left to right."""
    return _leaves(trees, tree, 0) if trees.sizes[tree] else [0]


def _leaves(trees: Trees, tree: int, at: int) -> list[int]:
    if at < 0:
        return [~at]
    left, right = int(trees.left[at, tree]), int(trees.right[at, tree])
    return _leaves(trees, tree, left) + _leaves(trees, tree, right)


_LOWEST = np.zeros(FULL + 1, np.uint8)
for _bit in reversed(range(LEAVES)):
    _LOWEST[1 << _bit :: 1 << (_bit + 1)] = _bit
"""The lowest bit that is set, of every 16-bit number. Bytes, so that it stays in the cache."""
