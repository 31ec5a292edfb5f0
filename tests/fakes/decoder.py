"""An engine without a model: cells are lists, and the next token is a hash of what precedes it.

It is as strict as llama.cpp is: a position gap, an over-full batch or a sequence beyond its cells
fails the test at once.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from backends.engine.decoding import CellsFailed, Guesser, Sampler
from backends.engine.protocol import Job

VOCAB = 16
EOG = 15


def follow(tokens: list[int], vocab: int = VOCAB) -> int:
    """The token that this model says after `tokens`; never EOG unless all before are even."""
    token = crc32(bytes(tokens)) % vocab
    return token if token != EOG or all(t % 2 == 0 for t in tokens) else 0


def answer(prompt: list[int], count: int) -> list[int]:
    """What a model alone would generate: the reference of every scheduler test."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(follow(tokens))
        if tokens[-1] == EOG:
            break
    return tokens[len(prompt) :]


class FakeDecoder:
    """`history` holds each batch as (sequence, position) rows."""

    def __init__(self, *, cells: int, batch: int, outputs: int) -> None:
        self.vocab = VOCAB
        self.cells: dict[int, list[int]] = {}
        self.limits = (cells, batch, outputs)
        self.history: list[list[tuple[int, int]]] = []
        self.broken = False
        self.not_a_number = False
        self.spoilt: set[int] = set()

    @property
    def used(self) -> int:
        return sum(len(held) for held in self.cells.values())

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> NDArray[np.float32]:
        cells, batch, outputs = self.limits
        assert 0 < len(tokens) <= batch
        assert sum(wanted) <= outputs
        assert sequences == sorted(sequences)
        if self.broken:
            raise CellsFailed("llama_decode returned 1")
        self.history.append(list(zip(sequences, positions, strict=True)))
        logits = []
        for token, position, sequence, want in zip(
            tokens, positions, sequences, wanted, strict=True
        ):
            held = self.cells.setdefault(sequence, [])
            assert position == len(held), "a gap, or a cell that was not removed"
            held.append(token)
            if want:
                row = np.zeros(VOCAB, np.float32)
                row[follow(held)] = np.nan if self.not_a_number or held[0] in self.spoilt else 1.0
                logits.append(row)
        assert self.used <= cells
        return np.array(logits, np.float32).reshape(-1, VOCAB)

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        assert end == -1
        del self.cells.get(sequence, [])[start:]

    def copy(self, source: int, target: int, end: int) -> None:
        assert not self.cells.get(target), "a copy onto what is not empty"
        assert len(self.cells[source]) >= end, "a copy of cells that are not there"
        self.cells[target] = self.cells[source][:end]

    def sampler(self, job: Job) -> Sampler | None:
        return None

    def guesser(self, job: Job) -> Guesser | None:
        return None

    def piece(self, token: int) -> bytes:
        return b"%x" % token

    def spelling(self, token: int) -> bytes:
        return b"<%x>" % token

    def save(self, sequence: int) -> memoryview:
        return memoryview(bytes(self.cells[sequence]))

    def load(self, sequence: int, state: memoryview) -> bool:
        assert not self.cells.get(sequence), "a load onto what is not empty"
        if self.used + len(state) > self.limits[0]:
            return False
        self.cells[sequence] = list(state)
        return True

    def ends(self, token: int) -> bool:
        return token == EOG
