"""Log-probabilities of emitted tokens, kept until the text they end in may be shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Entry: TypeAlias = tuple[bytes, float | None, tuple[tuple[bytes, float], ...]]
"""A token's bytes, its log-probability, and the likeliest tokens in its place, best first.

The log-probability is None where there is none: of a text's first token.
"""


def entry(row: NDArray[np.float32], token: int, top: int, name: Callable[[int], bytes]) -> Entry:
    """Of the model's own distribution: before biases, penalties and temperature, as vLLM's."""
    best = row.max()
    total = float(best) + float(np.log(np.exp(row - best).sum(dtype=np.float64)))
    likeliest: list[int] = []
    if top:
        top = min(top, len(row))
        found = np.argpartition(row, len(row) - top)[len(row) - top :]
        likeliest = found[np.lexsort((found, -row[found]))].tolist()
    return (
        name(token),
        float(row[token]) - total,
        tuple((name(other), float(row[other]) - total) for other in likeliest),
    )


class Trail:
    """One sequence's entries, each waiting for the text to reach its token's end."""

    def __init__(self, top: int, name: Callable[[int], bytes]) -> None:
        self._top = top
        self._name = name
        self._waiting: deque[tuple[int, Entry]] = deque()

    def add(self, row: NDArray[np.float32], token: int, end: int) -> None:
        """`end`: how many bytes the answer has with this token."""
        self._waiting.append((end, entry(row, token, self._top, self._name)))

    def first(self, token: int, end: int) -> None:
        """A token that nothing came before."""
        self._waiting.append((end, (self._name(token), None, ())))

    def take(self, shown: int) -> tuple[Entry, ...]:
        """The entries of tokens that lie wholly in the first `shown` bytes."""
        taken = []
        while self._waiting and self._waiting[0][0] <= shown:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)


def unpack(entries: Any) -> tuple[Entry, ...]:
    """From msgpack's lists."""
    return tuple((d, p, tuple((o, q) for o, q in top)) for d, p, top in entries)
