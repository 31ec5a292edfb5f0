"""One verified position in a hundred is evaluated once more, by itself: is it what the target says?

Verification that is silently not enforced has happened to others (llama.cpp issue 27975: every
draft accepted, accuracy from 93 to 62 %), and no answer shows it. So the row of a position that was
settled in a pass with a draft is computed again, alone, and chosen from by a fresh sampler that has
been told what came before. A disagreement by more than a tie ends drafting in this worker.

What is not independent: the cells before the position, which both evaluations read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.engine.protocol import Job

Floats = NDArray[np.float32]
Verdict: TypeAlias = Literal["same", "tie", "mismatch"]

EVERY = 100
TIE = 0.1
"""Logits. What a batch's width does to a row is less (design.md, Strict), and what a broken
verifier does is more."""


class Sampler(Protocol):
    """Of the scheduler's sampler what is used here."""

    def __call__(self, logits: Floats) -> int: ...

    def accept(self, token: int) -> None: ...

    def above(self, token: int) -> float: ...


@dataclass(slots=True)
class Audit:
    """One worker's. `exact`: strict rows of all widths agree bit for bit, so none of them ties."""

    exact: bool = False
    trusted: bool = True
    """Whether drafts may be verified here at all."""
    _seen: int = 0

    def pick(self, base: int, settled: int) -> int | None:
        """The position to look at again, of those that a pass with a draft settled from `base`."""
        before, self._seen = self._seen, self._seen + settled
        if before // EVERY == self._seen // EVERY:
            return None
        at = base + EVERY * (self._seen // EVERY) - before - 1
        return at if at > 0 else None  # the first is the prompt's row

    def judge(
        self, job: Job, said: Sequence[int], logits: Floats, sampler: Sampler | None
    ) -> Verdict:
        """Whether the last of `said` is what a fresh `sampler` takes from its own row."""
        *before, token = said
        if sampler is None:
            best = int(logits.argmax())
            above = float(logits[best] - logits[token])
        else:
            for each in before:
                sampler.accept(each)
            best = sampler(logits)
            above = sampler.above(token)
        if best == token:
            return "same"
        if above <= TIE and not (self.exact and job.strict):
            return "tie"
        self.trusted = False
        return "mismatch"
