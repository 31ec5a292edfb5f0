"""What any router must be shown beside: chance, prompt length, hashed n-grams, the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from router_policies.learned.text import words

BITS = 18
PENALTY = 3.0
STEPS = 60

Floats = NDArray[np.float64]


def lengths(prompts: Sequence[str]) -> Floats:
    return np.array([len(prompt) for prompt in prompts], float)


def chance(count: int) -> Floats:
    return np.random.default_rng(0).random(count)


def ngrams(prompts: Sequence[str]) -> csr_matrix:
    """Hashed counts of character 3- to 5-grams, words and word pairs, each row of length one."""
    rows: list[NDArray[np.uint32]] = []
    for prompt in prompts:
        raw = np.frombuffer(prompt.lower().encode()[:4000], np.uint8).astype(np.uint32)
        parts = []
        for size in (3, 4, 5):
            mixed = np.full(max(0, len(raw) - size + 1), size, np.uint32)
            for at in range(size):
                mixed = mixed * np.uint32(0x01000193) ^ raw[at : at + len(mixed)]
            parts.append(mixed)
        told = np.array([_hash(word) for word in words(prompt)], np.uint32)
        parts += [told, told[:-1] * np.uint32(31) + told[1:]]
        whole = np.concatenate(parts) * np.uint32(0x9E3779B1)
        rows.append(whole >> np.uint32(32 - BITS))
    return _matrix(rows)


def _hash(word: str) -> int:
    value = 2166136261
    for byte in word.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _matrix(rows: Sequence[NDArray[np.uint32]]) -> csr_matrix:
    columns, values, starts = [], [], [0]
    for row in rows:
        found, counts = np.unique(row, return_counts=True)
        weight = np.sqrt(counts)
        columns.append(found)
        values.append(weight / (np.linalg.norm(weight) or 1.0))
        starts.append(starts[-1] + len(found))
    data = (np.concatenate(values), np.concatenate(columns), np.array(starts))
    return csr_matrix(data, shape=(len(rows), 2**BITS))


def held_out_logistic(
    matrix: csr_matrix, wins: NDArray[np.bool_], parts: NDArray[np.intp]
) -> Floats:
    """Log-odds that only the strong model is right, for each row by a model without its fold."""
    said = np.zeros(matrix.shape[0])
    for part in np.unique(parts):
        inside, outside = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        said[inside] = matrix[inside] @ logistic(matrix[outside], wins[outside].astype(float))
    return said


def logistic(matrix: csr_matrix, target: Floats) -> Floats:
    """The weights of a ridge logistic regression."""
    across = matrix.T.tocsr()

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = matrix @ weights
        value = np.logaddexp(0, odds).sum() - target @ odds + weights @ weights * PENALTY / 2
        return float(value), across @ (expit(odds) - target) + PENALTY * weights

    start = np.zeros(matrix.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return np.asarray(found.x)
