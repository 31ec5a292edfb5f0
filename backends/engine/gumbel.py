"""Sampling's noise as a function of (seed, position, token), the same wherever it is asked for.

Adding independent standard Gumbel noise to logits and taking the largest is sampling from their
softmax (Gumbel-max). If the noise is no stream but a function of where it is used, the answer is
one of model and seed alone, whatever was drafted; and a drafter that knows the seed takes the
target's own noise and guesses what the target would sample, as often as their distributions allow
(Daliri, Musco, Suresh 2408.07978: at least (1 - TV)/(1 + TV)).

Numbers come from a counter-based hash, so they need no order and no state: splitmix64's finaliser
(Steele, Lea, Flood 2014) over a stream chosen by seed and position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mixed(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


class Noise:
    """The noise of one seed. Its arrays are used again at each call: at a vocabulary of 152,000
    tokens, fresh ones cost five times as much as the numbers in them (3.5 ms and 0.6)."""

    def __init__(self, seed: int, vocab: int) -> None:
        self._seed = _mixed(seed + _GOLDEN)
        self._x, self._shifted = np.empty(vocab, np.uint64), np.empty(vocab, np.uint64)
        self._u = np.empty(vocab, np.float64)

    def __call__(self, position: int, tokens: NDArray[Any], attempt: int = 0) -> Doubles:
        """Standard Gumbel noise for each of `tokens` at a position of the answer; all finite, and
        valid until the next call.

        `attempt` counts choices at one position: one whose token did not fit a grammar is repeated,
        and the tokens that are left must not pay for noise that has been seen.
        """
        stream = _mixed(self._seed + _mixed(position + 1) * _GOLDEN + attempt)
        count = len(tokens)
        x, shifted, u = self._x[:count], self._shifted[:count], self._u[:count]
        np.copyto(x, tokens, casting="unsafe")
        x += np.uint64(1)
        x *= np.uint64(_GOLDEN)
        x += np.uint64(stream)
        for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
            np.right_shift(x, np.uint64(shift), out=shifted)
            x ^= shifted
            if factor != 1:
                x *= np.uint64(factor)
        # 52 bits and a half: never 0 nor 1, both exactly representable.
        x >>= np.uint64(12)
        np.copyto(u, x)
        u += 0.5
        u *= 2.0**-52
        for _ in range(2):
            np.log(u, out=u)
            np.negative(u, out=u)
        return u


def margin(keys: NDArray[Any], best: int) -> float:
    """How far the largest is above the second; infinite if there is no other."""
    largest = keys[best]
    keys[best] = -np.inf
    second = keys.max()
    keys[best] = largest
    return float(largest - second)
