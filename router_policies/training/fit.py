"""From labelled prompts to heads: boosted trees by LightGBM, which nothing at run time needs.

Each head is a weighted mean of members that see the prompt differently: the 41 features alone, or
with the token vectors; outcomes as they came, or without the differences between sources (one
benchmark's graders are harder than another's, and that is not the prompt's doing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_policies.learned.features import NAMES, features
from router_policies.learned.model import Blend
from router_policies.learned.text import clip, words
from router_policies.learned.trees import LEAVES, NODES, Forest, Trees
from router_policies.learned.wording import BITS, Wording, pairs
from router_policies.training.data import Floats, Labelled
from router_policies.training.domains import domain
from router_policies.training.plainer import EVERY, plainer

SEEN = 2
"""A pair of pieces is known once so many unrelated prompts have it."""

ROUNDS = 200
SETTINGS: Mapping[str, Any] = {
    "objective": "l2",
    "learning_rate": 0.03,
    "num_leaves": LEAVES - 1,
    "max_depth": 6,
    "min_data_in_leaf": 40,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.6,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "use_missing": False,
    "num_threads": 1,
    "verbose": -1,
}

KNOWN, NOVEL, LEAN = 0.4, 0.8, 0.2
"""The blend (see `model.Blend`). With a whole domain left out of training the gain head's numbers
said nothing of the true gain (slope -0.29) and the fails head's did (0.40); within known domains it
was the other way round (1.20 and 0.09). Of held-out prompts of known domains 1 in 3 is newer than
`known`, 1 in 200 newer than `novel`; a gate that closes earlier cost word problems 0.02 to 0.07
APGR, because their names are always new."""

FEW = 400
"""Fewer prompts teach nothing: trees have at least 40 in a leaf."""
COPY = 0.25
"""What a plainer copy counts beside its row: as much as costs nothing on the rows as they are."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows' numbers in a plainer form (plainer.py), and which row each is of."""

    of: NDArray[np.intp]
    numbers: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prompts as the heads see them: a row of numbers each, and the hashes of its pairs.

    `worded`: whether a row has its token vectors; zeros are in their place where it does not.
    `copies` are learnt from with their rows, and never asked about.
    """

    numbers: NDArray[np.float32]
    hashes: tuple[NDArray[np.uint32], ...]
    worded: NDArray[np.bool_]
    copies: Copies | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """Fitted heads: the trees, gain first, and how many are gain's."""

    trees: Trees
    gain_trees: int
    seen: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What fitted heads say of prompts."""

    gain: Floats
    fails: Floats
    novelty: Floats

    def scores(self, blend: Blend) -> Floats:
        """As `Router.assess` blends them."""
        trust = np.clip((blend.novel - self.novelty) / (blend.novel - blend.known), 0, 1)
        blended: Floats = trust * self.gain + (1 - trust) * blend.mean_gain
        return blended + blend.lean * (self.fails - blend.mean_fails)


def prepare(prompts: Sequence[str], wording: Wording, *, copies: bool = False) -> Prepared:
    """The numbers of some prompts; `copies`: to learn from, with plainer ones beside them."""
    numbers, hashes = [], []
    for prompt in prompts:
        ids, row = _row(prompt, wording)
        numbers.append(row)
        hashes.append(pairs(ids))
    worded = np.ones(len(hashes), np.bool_)
    whole = Prepared(np.array(numbers, np.float32), tuple(hashes), worded)
    if not copies:
        return whole
    of = np.arange(0, len(prompts), EVERY)
    plain = [_row(plainer(each, at), wording)[1] for at, each in enumerate(prompts[::EVERY])]
    return replace(whole, copies=Copies(of, np.array(plain, np.float32)))


def _row(prompt: str, wording: Wording) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    text = clip(prompt)
    found = words(text)
    ids = wording.ids(found)
    return ids, np.concatenate([features(text, found), wording.vector(ids)])


def fit(labelled: Labelled, prepared: Prepared, at: NDArray[np.intp]) -> Heads:
    """Heads from the rows `at`. Raises ImportError without LightGBM."""
    rows, seen = len(at), known_pairs(labelled.take(at), prepared, at)
    numbers, worded = prepared.numbers[at], prepared.worded[at]
    if (copies := prepared.copies) is not None:
        mine = np.isin(copies.of, at)
        at = np.concatenate([at, copies.of[mine]])
        numbers = np.concatenate([numbers, copies.numbers[mine]])
        worded = np.concatenate([worded, prepared.worded[copies.of[mine]]])
    some = labelled.take(at)
    trust = some.weight.copy()
    trust[rows:] *= COPY
    shape = range(len(NAMES))
    every = range(numbers.shape[1])
    soft = (some.soft_strong - some.soft_weak + some.gain) / 2
    even = without_sources(some, some.gain)
    gain = [(shape, soft, 1 / 2), (shape, even, 1 / 2)]
    # Where vectors are missing their zeros must not become a sign of where a row is from.
    wide = every if worded.all() or worded.sum() >= FEW else shape
    fails = [(shape, some.fails, 2 / 3), (wide, some.fails, 1 / 3)]
    parts = []
    for columns, target, share in (*gain, *fails):
        which = worded if columns is every else np.ones(len(at), np.bool_)
        parts.append(_boost(numbers[which], target[which], trust[which], columns, share))
    return Heads(_joined(parts), len(gain) * ROUNDS, seen)


def known_pairs(labelled: Labelled, prepared: Prepared, at: NDArray[np.intp]) -> NDArray[np.uint8]:
    """The bitmap of pairs that at least `SEEN` groups of these rows have."""
    by_group: dict[str, list[NDArray[np.uint32]]] = {}
    for row, index in zip(labelled.rows, at, strict=True):
        by_group.setdefault(row.group, []).append(prepared.hashes[index] >> np.uint32(32 - BITS))
    counts = np.zeros(2**BITS, np.int32)
    for each in by_group.values():
        counts[np.unique(np.concatenate(each))] += 1
    return np.packbits(counts >= SEEN, bitorder="little")


def predict(heads: Heads, prepared: Prepared, at: NDArray[np.intp]) -> Predicted:
    """What the heads say of the rows `at`."""
    forest, cut = Forest(heads.trees), heads.gain_trees
    said = np.array([forest.leaves(row) for row in prepared.numbers[at]], np.float64)
    bits = np.unpackbits(heads.seen, bitorder="little")
    novelty = []
    for index in at:
        each = prepared.hashes[index] >> np.uint32(32 - BITS)
        novelty.append(1.0 - float(bits[each].mean()) if each.size else 1.0)
    return Predicted(said[:, :cut].sum(axis=1), said[:, cut:].sum(axis=1), np.array(novelty))


def held_out(
    labelled: Labelled,
    prepared: Prepared,
    parts: NDArray[Any],
    told: Callable[[str], None] = lambda line: None,
) -> Predicted:
    """What heads say of each row that were trained without its part: a fold, or a domain."""
    count = len(labelled.rows)
    gain, fails, novelty = np.zeros(count), np.zeros(count), np.zeros(count)
    for part in np.unique(parts):
        inside, outside = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        said = predict(fit(labelled, prepared, outside), prepared, inside)
        gain[inside], fails[inside], novelty[inside] = said.gain, said.fails, said.novelty
        told(f"without {part}: {len(inside)} prompts")
    return Predicted(gain, fails, novelty)


def blend_of(said: Predicted) -> Blend:
    """The blend for heads that say this of prompts they were not trained on."""
    return Blend(
        known=KNOWN,
        novel=NOVEL,
        lean=LEAN,
        mean_gain=float(said.gain.mean()),
        mean_fails=float(said.fails.mean()),
    )


def without_sources(labelled: Labelled, values: Floats) -> Floats:
    """The values with each bench's own mean within a domain replaced by the domain's."""
    domains = np.array([domain(row) for row in labelled.rows])
    sources = np.array([f"{row.source} {row.bench}" for row in labelled.rows])
    out = values.copy()
    for one in np.unique(domains):
        inside = domains == one
        for source in np.unique(sources[inside]):
            both = inside & (sources == source)
            out[both] += values[inside].mean() - values[both].mean()
    return out


def _boost(
    numbers: NDArray[np.float32], target: Floats, trust: Floats, columns: range, weight: float
) -> list[tuple[Any, float]]:
    import lightgbm  # the `train` extra; importing it takes a second

    data = lightgbm.Dataset(numbers[:, : len(columns)], target, weight=trust)
    model = lightgbm.train(dict(SETTINGS), data, ROUNDS)
    return [(tree["tree_structure"], weight) for tree in model.dump_model()["tree_info"]]


def _joined(parts: Sequence[Sequence[tuple[Any, float]]]) -> Trees:
    structures = [tree for part in parts for tree in part]
    count = len(structures)
    whole = {name: np.zeros((NODES, count), np.int32) for name in ("feature", "left", "right")}
    threshold = np.zeros((NODES, count), np.float32)
    leaf = np.zeros((count, LEAVES), np.float32)
    node = np.zeros((count, NODES), np.float32)
    sizes = np.zeros(count, np.int32)
    for tree, (root, scale) in enumerate(structures):
        inner, leaves = 0, 0
        waiting: list[tuple[Any, str, int]] = [(root, "", 0)]
        while waiting:
            here, side, parent = waiting.pop(0)
            if "split_index" in here:
                at, inner = inner, inner + 1
                whole["feature"][at, tree] = here["split_feature"]
                threshold[at, tree] = _below(here["threshold"])
                node[tree, at] = here["internal_value"] * scale
                waiting += [(here["left_child"], "left", at), (here["right_child"], "right", at)]
            else:
                at, leaves = ~leaves, leaves + 1
                leaf[tree, ~at] = here["leaf_value"] * scale
            if side:
                whole[side][parent, tree] = at
        sizes[tree] = inner
    return Trees(threshold=threshold, leaf=leaf, node=node, sizes=sizes, **whole)


def _below(threshold: float) -> np.float32:
    """The largest float32 that is no larger: a float32 passes this test where it passed that."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))
