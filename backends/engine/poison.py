"""Prompts that were being computed when workers died: after the second time they are refused.

A prompt that ends the worker would otherwise do so for as long as its client asks again, and each
time the answers of everybody in the same batch go with it. Kept are hashes, never prompts; they are
few and forgotten after a while, since a neighbour in the batch is blamed too. An answer that ends
well clears its prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

DEATHS = 2
KEPT = 256
FORGET_S = 600.0


class PoisonList:
    """Bounded in number and in time; `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def blame(self, prompts: Iterable[Sequence[int]]) -> None:
        """These were in the batch when the worker died; a prompt that was there twice (the choices
        of one request) has been in one death."""
        now = self._clock()
        for key in {_key(prompt) for prompt in prompts}:
            deaths, _ = self._seen.pop(key, (0, 0.0))
            self._seen[key] = (deaths + 1, now)
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)

    def clear(self, prompt: Sequence[int]) -> None:
        """It was answered well."""
        if self._seen:
            self._seen.pop(_key(prompt), None)

    def refuses(self, prompt: Sequence[int]) -> float:
        """For how many more seconds it is refused; 0 if it may be tried."""
        if not self._seen:  # the rule: nothing is hashed
            return 0.0
        key = _key(prompt)
        deaths, last = self._seen.get(key, (0, 0.0))
        left = last + FORGET_S - self._clock()
        if deaths and left <= 0:
            del self._seen[key]
        return max(0.0, left) if deaths >= DEATHS else 0.0

    def __len__(self) -> int:
        return len(self._seen)


def _key(prompt: Sequence[int]) -> bytes:
    return hashlib.sha256(array("q", prompt).tobytes()).digest()
