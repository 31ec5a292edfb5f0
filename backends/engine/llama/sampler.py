"""llama.cpp's sampler chain for one sequence, and our choice from what it leaves."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np

from backends.engine.decoding import Floats
from backends.engine.gumbel import Noise, margin
from backends.engine.llama.candidates import CANDIDATE, array_of
from backends.engine.llama.model import PENALTY_WINDOW, Model, looked_back
from backends.engine.protocol import SamplerSettings


class ChainSampler:
    """llama.cpp's sampler chain for one sequence, and a choice from what it leaves.

    A call chooses a token and accepts it, so its state is exactly that of the tokens emitted: call
    it once per emitted token. The order is llama.cpp's default one; only the last step is ours, so
    that a sample is a function of seed and position (gumbel.py) and not of how often was sampled.
    `ends` are the tokens that `ignore_eos` and `min_tokens` ban.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        model: Model,
        ends: frozenset[int] = frozenset(),
        prompt: tuple[int, ...] = (),
    ) -> None:
        vocab = model.tokens
        self._items = np.zeros(vocab, CANDIDATE)
        self._ids = np.arange(vocab, dtype=np.int32)
        self._biases = settings.logit_bias
        self._ends = sorted(ends)
        # Before this position no token may end the answer.
        self._least = PENALTY_WINDOW**2 if settings.ignore_eos else settings.min_tokens
        seed = random.getrandbits(31) if settings.seed is None else settings.seed
        self._noise = Noise(seed, vocab) if settings.temperature > 0 else None
        self._position = self._attempt = self._best = self._left = 0
        self._keys = np.empty(vocab, np.float64)
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for sampler in self._parts(settings, model, prompt):
            C.llama_sampler_chain_add(self._chain, sampler)

    @classmethod
    def _parts(cls, settings: SamplerSettings, model: Model, prompt: tuple[int, ...]) -> list[Any]:
        parts = cls._penalties(settings, model, prompt)
        if settings.temperature <= 0 and not settings.infill:
            return parts
        if settings.top_k > 0:
            # ctypes takes the lowest 32 bits of what is more, and that may be a 1.
            parts.append(C.llama_sampler_init_top_k(min(settings.top_k, model.tokens)))
        if settings.typical_p < 1:
            # A probability that underflows to 0 would make the entropy not a number.
            parts.append(C.llama_sampler_init_min_p(1e-30, 1))
            parts.append(C.llama_sampler_init_typical(settings.typical_p, 1))
        if settings.top_p < 1:
            parts.append(C.llama_sampler_init_top_p(settings.top_p, 1))
        if settings.min_p > 0:
            parts.append(C.llama_sampler_init_min_p(settings.min_p, 1))
        if settings.infill:
            parts.append(C.llama_sampler_init_infill(model.vocab))
        if settings.temperature > 0:
            parts.append(C.llama_sampler_init_temp(settings.temperature))
        return parts

    @staticmethod
    def _penalties(settings: SamplerSettings, model: Model, prompt: tuple[int, ...]) -> list[Any]:
        vocab, parts = model.tokens, []
        if settings.frequency_penalty or settings.presence_penalty:
            frequency, presence = settings.frequency_penalty, settings.presence_penalty
            parts.append(
                C.llama_sampler_init_penalties(vocab, PENALTY_WINDOW, 1.0, frequency, presence)
            )
        both = []
        if settings.repeat_penalty != 1:
            window = looked_back(settings.repeat_last_n)
            penalty = settings.repeat_penalty
            both.append(C.llama_sampler_init_penalties(vocab, window, penalty, 0.0, 0.0))
        if settings.dry_multiplier:
            both.append(model.dry(settings))
        for sampler in both:
            for token in prompt[-PENALTY_WINDOW:]:
                C.llama_sampler_accept(sampler, token)
        return [*parts, *both]

    def __call__(self, logits: Floats) -> int:
        token = self.choose(logits)
        self.accept(token)
        return token

    def choose(self, logits: Floats) -> int:
        """A token, not yet accepted: something else may still refuse it."""
        self._items["id"] = self._ids
        self._items["logit"] = logits
        for token, bias in self._biases:
            self._items["logit"][token] += bias
        if self._position < self._least:
            self._items["logit"][self._ends] = -np.inf
        array = array_of(self._items)
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        left = self._items[: array.size]
        self._left = len(left)
        keys = self._keys[: self._left]
        np.copyto(keys, left["logit"])
        if self._noise is not None:
            keys += self._noise(self._position, left["id"], self._attempt)
        self._attempt += 1
        self._best = int(keys.argmax())
        return int(left["id"][self._best])

    def guess(self, logits: Floats, position: int) -> int:
        """What would be chosen at a position, if nothing before it mattered."""
        self._position, self._attempt = position, 0
        return self.choose(logits)

    @property
    def margin(self) -> float:
        """How far the last choice was above the second best, noise included."""
        return margin(self._keys[: self._left], self._best)

    def above(self, token: int) -> float:
        """How far the last choice was above another token; infinite if that was filtered out."""
        there = np.flatnonzero(self._items["id"][: self._left] == token)
        if not len(there):
            return float("inf")
        return float(self._keys[self._best] - self._keys[there[0]])

    def accept(self, token: int) -> None:
        self._position += 1
        self._attempt = 0
        C.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        if self._chain:
            C.llama_sampler_free(self._chain)
            self._chain = None
