"""What a prompt's words say: a mean of static token vectors, and how many word pairs are known.

The vectors are distilled once from a sentence encoder (the artifact's card has the recipe); a word
becomes greedy longest-match word pieces. Novelty is the share of neighbouring pieces that training
never saw, read from a bitmap of hashes: it keeps no prompt, and a collision only makes a prompt
look a little more familiar.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LONGEST_WORD = 40
"""Characters; a longer word is read as its beginning."""

MULTIPLIER = 0x9E3779B1
"""2^32 over the golden ratio (Knuth's multiplicative hash)."""


class Wording:
    """A word-piece vocabulary with a vector for each, and the pairs that training saw.

    `vectors` is int8, one row for each piece; `seen` is a bitmap whose size in bits is a power of
    two. Immutable, but for a bounded cache of how rare words split.
    """

    def __init__(
        self, pieces: list[str], vectors: NDArray[np.int8], seen: NDArray[np.uint8]
    ) -> None:
        self.pieces = pieces
        self.vectors = vectors
        self.seen = seen
        self._ids = {piece: index for index, piece in enumerate(pieces)}
        self._bits = np.unpackbits(seen, bitorder="little").view(np.bool_)
        self._shift = np.uint32(32 - (self._bits.size.bit_length() - 1))
        self._split: dict[str, tuple[int, ...]] = {}

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    def ids(self, words: Iterable[str]) -> NDArray[np.intp]:
        """The words' pieces. What has no piece at all is left out."""
        known, found = self._ids, []
        for word in words:
            at = known.get(word)
            if at is not None:
                found.append(at)
            else:
                found += self._split.get(word) or self._learn(word)
        return np.array(found, np.intp)

    def vector(self, ids: NDArray[np.intp]) -> NDArray[np.float32]:
        """The mean of the pieces' vectors, of length one; zeros without pieces."""
        total: NDArray[np.float32] = self.vectors.take(ids, axis=0).sum(axis=0, dtype=np.float32)
        length = float(np.sqrt(total @ total))
        return total / np.float32(length) if length else total

    def novelty(self, ids: NDArray[np.intp]) -> float:
        """From 0, all neighbouring pieces were seen together in training, to 1, none was."""
        if ids.size < 2:
            return 1.0
        known = self._bits.take(pairs(ids) >> self._shift)
        return 1.0 - int(np.count_nonzero(known)) / known.size

    def _learn(self, word: str) -> tuple[int, ...]:
        split = self._pieces(word[:LONGEST_WORD])
        if len(self._split) < MOST_KEPT:
            self._split[word] = split
        return split

    def _pieces(self, word: str) -> tuple[int, ...]:
        """Greedy longest match; () for a word that cannot be covered, as the encoder has it."""
        found: list[int] = []
        start, mark = 0, ""
        while start < len(word):
            for end in range(len(word), start, -1):
                at = self._ids.get(mark + word[start:end])
                if at is not None:
                    break
            else:
                return ()
            found.append(at)
            start, mark = end, "##"
        return tuple(found)


MOST_KEPT = 20_000
"""Rare words whose split is kept; beyond it they are split each time."""


def pairs(ids: NDArray[np.intp]) -> NDArray[np.uint32]:
    """A hash of each two neighbouring pieces, their order included; its upper bits are the best."""
    low = ids.astype(np.uint32)
    mixed: NDArray[np.uint32] = (low[:-1] * np.uint32(MULTIPLIER) + low[1:]) * np.uint32(MULTIPLIER)
    return mixed


BITS = 20
"""The bitmap of known pairs, and a pair in a log of labels, have 2 to the power of this many."""


def hashed(ids: NDArray[np.intp]) -> list[int]:
    """A text's pairs as `BITS`-bit hashes, sorted, each once: their order would give it away."""
    return [int(each) for each in np.unique(pairs(ids) >> np.uint32(32 - BITS))]
