"""What the scheduler needs of llama.cpp: a decoder, samplers, and what may go wrong there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.engine.protocol import Job

Floats = NDArray[np.float32]


NOT_NUMBERS = "the model's output is not a number; its file may be damaged"


class CellsFailed(Exception):
    """The engine could not run a batch, but lives; the batch's sequences end."""


class GrammarRefused(Exception):
    """A job's grammar cannot be used; the message says why. Nobody else is concerned."""


class Sampler(Protocol):
    """Chooses a token from a row of logits and remembers it; called once per emitted token."""

    def __call__(self, logits: Floats) -> int:
        """Raises NothingFits if a grammar leaves no token."""

    def accept(self, token: int) -> None:
        """Remember a token that was chosen elsewhere."""

    @property
    def margin(self) -> float:
        """How far the last choice was above the second best, in logits, noise included."""

    def above(self, token: int) -> float:
        """How far it was above another token."""

    def close(self) -> None: ...


class Guesser(Protocol):
    """Says what a target would choose, as far as that depends on one row and its position only."""

    def guess(self, logits: Floats, position: int) -> int: ...

    def close(self) -> None: ...


class Decoder(Protocol):
    """What the scheduler needs of llama.cpp."""

    @property
    def vocab(self) -> int: ...

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        """Run one batch; logits of the wanted rows in order. Raises CellsFailed."""

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None: ...

    def copy(self, source: int, target: int, end: int) -> None:
        """Let `target`, which is empty, hold the cells of `source` at positions below `end`."""

    def sampler(self, job: Job) -> Sampler | None:
        """None: plain argmax, which the scheduler does for all rows at once.

        Raises GrammarRefused.
        """

    def guesser(self, job: Job) -> Guesser | None:
        """For role draft. None: plain argmax."""

    def piece(self, token: int) -> bytes:
        """The token's text; nothing for control tokens."""

    def spelling(self, token: int) -> bytes:
        """The same, but control tokens have theirs."""

    def ends(self, token: int) -> bool: ...

    def save(self, sequence: int) -> memoryview:
        """All that a sequence's cells hold."""

    def load(self, sequence: int, state: memoryview) -> bool:
        """Fill an empty sequence with what `save` gave; False, and still empty, without room."""


class NoDecoder:
    """In its place where a model only embeds: with no slot there is nothing to decode."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        raise CellsFailed("this model only embeds")

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None: ...

    def copy(self, source: int, target: int, end: int) -> None: ...

    def sampler(self, job: Job) -> Sampler | None:
        return None

    def guesser(self, job: Job) -> Guesser | None:
        return None

    def save(self, sequence: int) -> memoryview:
        return memoryview(b"")

    def load(self, sequence: int, state: memoryview) -> bool:
        return False

    def piece(self, token: int) -> bytes:
        return b""

    def spelling(self, token: int) -> bytes:
        return b""

    def ends(self, token: int) -> bool:
        return False
