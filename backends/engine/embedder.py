"""Texts to vectors in the worker: which tokens the next batch holds, and how they are pooled.

A step is one batch, so that whoever generates waits for one batch and no longer. The same vector
comes out alone and in company: what is long goes alone, in chunks whose borders depend on nothing
but itself, and what is short goes together, in batches below 64 rows, where llama.cpp's attention
does not depend on what else is there (design.md). The cells are empty before each text.

Requests take turns, one text each. This module decides; tests give it an encoder of their own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.engine.pooling import Pooling, Room
from backends.engine.protocol import FAILED, INVALID, TOO_LONG

Floats = NDArray[np.float32]


class EncodeFailed(Exception):
    """The batch could not be computed, but the encoder lives."""


class Encoder(Protocol):
    """What is needed of llama.cpp."""

    @property
    def vocab(self) -> int: ...

    def encode(self, tokens: list[int], positions: list[int], sequences: list[int]) -> Floats:
        """A row for each token, valid until the next call. Raises EncodeFailed."""

    def clear(self) -> None:
        """Forget every sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One text's vector at length one, as little-endian float32; or `error`, as an Output's."""

    id: int
    at: int
    vector: bytes = b""
    error: str = ""


@dataclass(slots=True)
class _Text:
    id: int
    at: int
    tokens: list[int]
    fed: int = 0
    total: NDArray[np.float64] | None = None


class Embedder:
    """Owns the texts that wait. All calls come from one thread."""

    def __init__(self, encoder: Encoder, pooling: Pooling, room: Room) -> None:
        self._encoder = encoder
        self._pooling = pooling
        self._room = room
        self._waiting: dict[int, deque[_Text]] = {}
        self._alone: _Text | None = None
        self._news: list[Vector] = []
        self.tokens = 0
        self.texts = 0

    @property
    def idle(self) -> bool:
        return not (self._news or self._waiting or self._alone)

    def put(self, id: int, at: int, tokens: list[int]) -> None:
        """Queue one text of a request. What cannot be taken is told with the next step."""
        error = ""
        if not tokens or not all(0 <= token < self._encoder.vocab for token in tokens):
            error = f"{INVALID}: token ids are 0 to {self._encoder.vocab - 1}"
        elif len(tokens) > self._room.context:
            error = f"{TOO_LONG}: {len(tokens)} tokens, the context has {self._room.context}"
        if error:
            self._news.append(Vector(id=id, at=at, error=error))
        else:
            self._waiting.setdefault(id, deque()).append(_Text(id, at, tokens))

    def cancel(self, id: int) -> None:
        """Drop a request's texts; nothing more is told of it."""
        self._waiting.pop(id, None)
        if self._alone is not None and self._alone.id == id:
            self._alone = None
            self._encoder.clear()

    def step(self) -> list[Vector]:
        """Compute one batch; the vectors that it completes."""
        if self._alone is None:
            texts = self._take()
            if len(texts) == 1:
                self._alone = texts[0]
            elif texts:
                self._run(texts)
        if self._alone is not None:
            text = self._alone
            if self._run([text]):
                self._alone = None
        news, self._news = self._news, []
        return news

    def _take(self) -> list[_Text]:
        """The next texts, each request's first in turn: one that is long, or several short ones."""
        taken: list[_Text] = []
        left = self._room.shared
        looking = True
        while looking and len(taken) < self._room.sequences:
            looking = False
            for id in list(self._waiting):
                text = self._waiting[id][0]
                fits = len(text.tokens) <= left
                if taken and not (fits and len(taken) < self._room.sequences):
                    continue
                left -= len(text.tokens)
                looking = fits
                taken.append(self._pop(id))
                if not fits:
                    return taken
        return taken

    def _pop(self, id: int) -> _Text:
        """A request's next text; the request goes behind the others."""
        texts = self._waiting.pop(id)
        text = texts.popleft()
        if texts:
            self._waiting[id] = texts
        return text

    def _run(self, texts: list[_Text]) -> bool:
        """One batch. Whether its texts are done, well or badly."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        parts = [text.tokens[text.fed : text.fed + self._room.rows] for text in texts]
        for sequence, (text, part) in enumerate(zip(texts, parts, strict=True)):
            tokens += part
            positions += range(text.fed, text.fed + len(part))
            sequences += [sequence] * len(part)
        try:
            rows = self._encoder.encode(tokens, positions, sequences)
        except EncodeFailed as error:
            self._encoder.clear()
            why = f"{FAILED}: {error}"
            self._news += [Vector(id=text.id, at=text.at, error=why) for text in texts]
            return True
        self.tokens += len(tokens)
        at = 0
        for text, part in zip(texts, parts, strict=True):
            self._pool(text, rows[at : at + len(part)])
            at += len(part)
        done = all(text.fed == len(text.tokens) for text in texts)
        if done:
            self._encoder.clear()
            self._news += [self._finished(text) for text in texts]
        return done

    def _pool(self, text: _Text, rows: Floats) -> None:
        match self._pooling:
            case "mean":
                added = rows.sum(axis=0, dtype=np.float64)
                text.total = added if text.total is None else text.total + added
            case "cls" if text.fed == 0:
                text.total = rows[0].astype(np.float64)
            case "last":
                text.total = rows[-1].astype(np.float64)
        text.fed += len(rows)

    def _finished(self, text: _Text) -> Vector:
        """At length one, so that a sum and a mean are the same."""
        assert text.total is not None
        norm = float(np.linalg.norm(text.total))
        if not np.isfinite(norm):
            why = f"{FAILED}: the model's output is not a number; its file may be damaged"
            return Vector(id=text.id, at=text.at, error=why)
        self.texts += 1
        unit = text.total / norm if norm else text.total
        return Vector(id=text.id, at=text.at, vector=unit.astype("<f4").tobytes())
