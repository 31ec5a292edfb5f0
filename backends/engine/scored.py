"""A prompt read back: its tokens as text, each with its log-probability after those before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backends.engine.logprobs import Entry, Trail
from backends.engine.text import TextStream


class ScoredPrompt:
    """Fed with rows of logits as the prompt is computed; a position that comes again is skipped."""

    def __init__(self, tokens: tuple[int, ...], top: int, name: Callable[[int], bytes]) -> None:
        self._tokens = tokens
        self._name = name
        self._trail = Trail(top, name)
        self._text = TextStream()
        self._told = 0

    def read(self, start: int, logits: NDArray[np.float32]) -> tuple[bytes, tuple[Entry, ...]]:
        """`logits` are of the positions from `start` on: what more of the prompt may be shown."""
        text = b""
        if not self._told:
            piece = self._name(self._tokens[0])
            self._trail.first(self._tokens[0], len(piece))
            text += self._text.push(piece)
            self._told = 1
        for position, row in enumerate(logits, start + 1):
            if not self._told <= position < len(self._tokens):
                continue
            token = self._tokens[position]
            piece = self._name(token)
            self._trail.add(row, token, self._text.pushed + len(piece))
            text += self._text.push(piece)
            self._told = position + 1
        if self._told == len(self._tokens):
            text += self._text.flush()
        return text, self._trail.take(self._text.shown)
