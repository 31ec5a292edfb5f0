"""A sampler whose tokens all fit a grammar, at the price of one check where that is enough.

The sequence's own sampler chooses first, from all tokens, and only that one is shown to the
grammar (2 microseconds). Where it does not fit, the grammar goes over the whole vocabulary (4 ms at
32k) and the sampler chooses again from what is left, which is the same distribution: a token is
taken with its probability among those that fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.engine.gumbel import margin

Floats = NDArray[np.float32]


SLOW_S = 1.0
"""A choice that takes longer ends its sequence: grammars can be exponentially ambiguous."""
SWOLLEN_S = 0.05
"""And so does a token whose acceptance takes longer, which is microseconds as long as the grammar
is in few states: where they multiply with each token, the next one may take a hundred times as
long, past all patience for the worker."""


class NothingFits(Exception):
    """The grammar is of no more use to its sequence; the message says why."""


class Chooser(Protocol):
    """A sampler in two halves."""

    def choose(self, logits: Floats) -> int: ...

    def accept(self, token: int) -> None: ...

    @property
    def margin(self) -> float: ...

    def above(self, token: int) -> float: ...

    def close(self) -> None: ...


class Rule(Protocol):
    """What is needed of a grammar; llama.Grammar is one."""

    def allows(self, token: int) -> bool: ...

    def mask(self, logits: Floats) -> Floats: ...

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class Greedy:
    """The likeliest token."""

    margin = float("inf")

    def choose(self, logits: Floats) -> int:
        token = int(logits.argmax())
        self.margin = margin(logits, token)
        self._logits, self._best = logits, token
        return token

    def above(self, token: int) -> float:
        return float(self._logits[self._best] - self._logits[token])

    def accept(self, token: int) -> None:
        pass

    def close(self) -> None:
        pass


class ConstrainedSampler:
    """Owns a chooser and a grammar; called once per emitted token.

    `hidden` marks tokens that add no text to the answer (control tokens): the grammar reads them by
    their spelling, so they would fill a string that the reader never sees. `clock` is this thread's
    own time: what neighbours take of the machine is not the grammar's fault.
    """

    def __init__(
        self,
        chooser: Chooser,
        rule: Rule,
        hidden: NDArray[np.bool_],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._chooser = chooser
        self._rule = rule
        self._hidden = hidden
        self._clock = clock

    def __call__(self, logits: Floats) -> int:
        """Raises NothingFits."""
        began = self._clock()
        token = self._chooser.choose(logits)
        if not self._fits(token):
            token = self._among_those_that_fit(logits)
        chosen = self._clock()
        self.accept(token)
        ended = self._clock()
        if ended - began > SLOW_S or ended - chosen > SWOLLEN_S:
            raise NothingFits("its grammar is too ambiguous: one token took too long")
        return token

    def accept(self, token: int) -> None:
        """Go on with a token that has been found to fit."""
        self._chooser.accept(token)
        self._rule.accept(token)

    def above(self, token: int) -> float:
        """How far the last choice was above another token; infinite if that does not fit."""
        return self._chooser.above(token)

    @property
    def margin(self) -> float:
        return self._chooser.margin

    def close(self) -> None:
        self._chooser.close()
        self._rule.close()

    def _fits(self, token: int) -> bool:
        return not self._hidden[token] and self._rule.allows(token)

    def _among_those_that_fit(self, logits: Floats) -> int:
        masked = self._rule.mask(logits)
        masked[self._hidden] = -np.inf
        if not (masked > -np.inf).any():
            raise NothingFits("the model has no token with which its grammar could go on")
        token = self._chooser.choose(masked)
        # A sampler's rounding can pick what has no probability; the grammar must never see it.
        return token if self._fits(token) else int(masked.argmax())
