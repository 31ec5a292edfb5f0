"""Which texts a batch holds, and how they are pooled, on an encoder of our own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.embedder import Embedder, EncodeFailed, Floats, Vector
from backends.engine.pooling import Pooling, Room

ROOM = Room(context=100, rows=20, shared=10, sequences=4)


class Hashing:
    """A row says its token, its position and the tokens of its sequence so far."""

    vocab = 1000

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.sums: dict[int, int] = {}
        self.fails = False

    def encode(self, tokens: list[int], positions: list[int], sequences: list[int]) -> Floats:
        assert 0 < len(tokens) <= ROOM.rows
        assert len(set(sequences)) <= ROOM.sequences
        if self.fails:
            raise EncodeFailed("as told")
        self.batches.append((len(tokens), len(set(sequences))))
        rows = []
        for token, position, sequence in zip(tokens, positions, sequences, strict=True):
            assert (position == 0) == (sequence not in self.sums)
            self.sums[sequence] = self.sums.get(sequence, 0) + token
            rows.append([token, position + 1, self.sums[sequence]])
        return np.array(rows, np.float32)

    def clear(self) -> None:
        self.sums = {}


def expected(tokens: list[int], pooling: Pooling) -> np.ndarray:
    rows = np.array([[t, i + 1, sum(tokens[: i + 1])] for i, t in enumerate(tokens)], float)
    pooled = {"mean": rows.mean(0), "cls": rows[0], "last": rows[-1]}[pooling]
    return np.asarray(pooled / np.linalg.norm(pooled))


def drained(embedder: Embedder) -> list[Vector]:
    made = []
    while not embedder.idle:
        made += embedder.step()
    return made


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["mean", "cls", "last"]),
)
def test_every_text_has_its_vector(lengths: list[list[int]], pooling: Pooling) -> None:
    """Whatever lengths come in whatever company, each text is pooled over all its own tokens."""
    embedder = Embedder(Hashing(), pooling, ROOM)
    texts = {}
    for id, sizes in enumerate(lengths):
        for at, size in enumerate(sizes):
            texts[id, at] = [(7 * i + 13 * id + at) % 900 + 1 for i in range(size)]
            embedder.put(id, at, texts[id, at])
    made = drained(embedder)
    assert {(v.id, v.at) for v in made} == set(texts)
    assert len(made) == len(texts)
    for vector in made:
        assert not vector.error
        got = np.frombuffer(vector.vector, "<f4")
        assert got == pytest.approx(expected(texts[vector.id, vector.at], pooling), abs=1e-6)
    assert embedder.tokens == sum(map(len, texts.values()))


def test_short_texts_go_together_and_long_ones_alone() -> None:
    """A batch holds as many short texts as fit, or a part of a long one; nothing in between."""
    hashing = Hashing()
    embedder = Embedder(hashing, "mean", ROOM)
    for at, size in enumerate([3, 3, 3, 3, 11, 45, 10]):
        embedder.put(1, at, [5] * size)
    drained(embedder)
    assert hashing.batches == [(9, 3), (3, 1), (11, 1), (20, 1), (20, 1), (5, 1), (10, 1)]


def test_requests_take_turns() -> None:
    """One text of another request does not wait for all of a long list."""
    embedder = Embedder(Hashing(), "mean", ROOM)
    for at in range(50):
        embedder.put(1, at, [5] * 10)
    embedder.put(2, 0, [5] * 30)
    embedder.put(3, 0, [5])
    order = [vector.id for vector in drained(embedder)]
    assert order.index(2) < 3
    assert order.index(3) < 3


def test_one_step_is_one_batch() -> None:
    """Whoever generates waits for one batch, however much there is to embed."""
    hashing = Hashing()
    embedder = Embedder(hashing, "mean", ROOM)
    embedder.put(1, 0, [5] * 100)
    for steps in range(1, 6):
        embedder.step()
        assert len(hashing.batches) == steps


def test_cancelled_requests_are_forgotten() -> None:
    """A request that is dropped, also amid a long text, costs nothing more and tells nothing."""
    hashing = Hashing()
    embedder = Embedder(hashing, "mean", ROOM)
    embedder.put(1, 0, [5] * 100)
    embedder.put(1, 1, [5])
    embedder.put(2, 0, [6, 7])
    assert embedder.step() == []
    embedder.cancel(1)
    assert [vector.id for vector in drained(embedder)] == [2]
    assert len(hashing.batches) == 2


def test_what_cannot_be_taken_says_so() -> None:
    """Tokens out of range, none at all, too many, a failed batch: an error for that text alone."""
    hashing = Hashing()
    embedder = Embedder(hashing, "mean", ROOM)
    for at, tokens in enumerate([[1000], [-1], [], [1] * 101, [1, 2]]):
        embedder.put(1, at, tokens)
    made = {vector.at: vector for vector in drained(embedder)}
    assert [made[at].error.partition(":")[0] for at in range(5)] == [
        "invalid",
        "invalid",
        "invalid",
        "too_long",
        "",
    ]
    hashing.fails = True
    embedder.put(2, 0, [1])
    assert [vector.error for vector in drained(embedder)] == ["failed: as told"]
    hashing.fails = False
    embedder.put(3, 0, [1])
    assert not drained(embedder)[0].error
