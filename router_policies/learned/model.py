"""One artifact at work: a text in, an assessment out, in tens of microseconds and with no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_policies.learned.features import NAMES, features
from router_policies.learned.text import clip, words
from router_policies.learned.trees import Forest
from router_policies.learned.wording import Wording

WORDING = "wording"
NOVELTY = "novelty"
BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How the heads become one number; written by training, read by everyone.

    Up to the novelty `known` the gain head counts in full, from `novel` on not at all: there only
    what the weak model fails at is left to go by. `lean` is what a sure failure adds at any
    novelty. The means are those of the heads on prompts that they were not trained on.
    """

    known: float
    novel: float
    lean: float
    mean_gain: float
    mean_fails: float

    def trust(self, novelty: float) -> float:
        """How much the gain head counts, 0 to 1."""
        return min(1.0, max(0.0, (self.novel - novelty) / (self.novel - self.known)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the router believes of one prompt.

    `score` is the quality that the strong model is expected to add; higher wants it more. `gain`
    and `fails` are the heads' own numbers, `novelty` is 0 to 1. `weak_ok` and `strong_ok` are the
    chances of a good answer from the kinds of models that it was trained on.
    """

    score: float
    gain: float
    fails: float
    novelty: float

    @property
    def weak_ok(self) -> float:
        return min(1.0, max(0.0, 1.0 - self.fails))

    @property
    def strong_ok(self) -> float:
        return min(1.0, max(0.0, self.weak_ok + self.score))


class Router:
    """A loaded artifact. Immutable; safe from several threads.

    The first `gain_trees` trees are the gain head, the others the fails head; each head's value is
    its trees' sum.
    """

    def __init__(self, *, forest: Forest, gain_trees: int, wording: Wording, blend: Blend) -> None:
        self.forest = forest
        self.gain_trees = gain_trees
        self.wording = wording
        self.blend = blend
        self._width = len(NAMES) + wording.width

    def assess(self, text: str) -> Assessment:
        """The assessment of a text. Never raises for a str."""
        row, novelty = self._row(text)
        said = self.forest.leaves(row)
        cut = self.gain_trees
        gain = float(np.add.reduce(said[:cut]))
        fails = float(np.add.reduce(said[cut:]))
        return self._blended(gain, fails, novelty)

    def explain(self, text: str) -> tuple[Assessment, Mapping[str, float]]:
        """The assessment, and what each feature gave to its score; the parts add up to the score.

        `base` is the score of a prompt about which nothing is known, `novelty` what is lost because
        the words are new, `wording` what the token vectors say together.
        """
        row, novelty = self._row(text)
        cut, count = self.gain_trees, self.forest.trees.sizes.shape[0]
        blend, trust = self.blend, self.blend.trust(novelty)
        gain_base, gain_parts = self.forest.contributions(row, 0, cut)
        fail_base, fail_parts = self.forest.contributions(row, cut, count)
        parts = {BASE: gain_base + blend.lean * (fail_base - blend.mean_fails)}
        parts[NOVELTY] = (1 - trust) * (blend.mean_gain - gain_base)
        for scale, each in ((trust, gain_parts), (blend.lean, fail_parts)):
            for index, value in each.items():
                name = NAMES[index] if index < len(NAMES) else WORDING
                parts[name] = parts.get(name, 0.0) + scale * value
        gain = gain_base + sum(gain_parts.values())
        fails = fail_base + sum(fail_parts.values())
        return self._blended(gain, fails, novelty), parts

    def _row(self, text: str) -> tuple[NDArray[np.float32], float]:
        text = clip(text)
        found = words(text)
        ids = self.wording.ids(found)
        row = np.empty(self._width, np.float32)
        row[: len(NAMES)] = features(text, found)
        row[len(NAMES) :] = self.wording.vector(ids)
        return row, self.wording.novelty(ids)

    def _blended(self, gain: float, fails: float, novelty: float) -> Assessment:
        blend = self.blend
        trust = blend.trust(novelty)
        score = trust * gain + (1 - trust) * blend.mean_gain
        score += blend.lean * (fails - blend.mean_fails)
        return Assessment(score=score, gain=gain, fails=fails, novelty=novelty)
