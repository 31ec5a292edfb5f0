"""The scheduler's `Decoder` over llama.cpp: a context, samplers, and the vocabulary as tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backends.engine.constrained import ConstrainedSampler, Greedy
from backends.engine.decoding import CellsFailed, Floats, GrammarRefused, Guesser, Sampler
from backends.engine.drafters import Watch
from backends.engine.llama.context import Context, DecodeFailed
from backends.engine.llama.grammar import Grammar, GrammarFailed
from backends.engine.llama.model import Model
from backends.engine.llama.sampler import ChainSampler
from backends.engine.protocol import Job


class LlamaDecoder:
    """The scheduler's engine: a context, and the vocabulary as tables."""

    def __init__(self, model: Model, context: Context, watch: Watch | None = None) -> None:
        self._model = model
        self._context = context
        self._watch = watch
        self._pieces = model.pieces()
        self._eog = model.eog()
        self._hidden = np.array([not piece for piece in self._pieces])
        self._hidden[list(self._eog)] = False
        self.vocab = model.tokens

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        try:
            if self._watch is None:
                return self._context.decode(tokens, positions, sequences, wanted)
            return self._watch(self._context.decode, tokens, positions, sequences, wanted)
        except DecodeFailed as error:
            if error.code < -1:
                raise  # fatal for the context: better a new process than a doubtful one
            raise CellsFailed(str(error)) from error

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        self._context.remove(sequence, start, end)

    def copy(self, source: int, target: int, end: int) -> None:
        self._context.copy(source, target, end)

    def sampler(self, job: Job) -> Sampler | None:
        plain = job.sampler.plain
        if not job.grammar:
            return None if plain else self._chain(job)
        grammar = self._grammar(job)
        chooser = Greedy() if plain else self._chain(job)
        hidden = self._hidden.copy()
        hidden[[token for token in job.shown if 0 <= token < self.vocab]] = False
        return ConstrainedSampler(chooser, grammar, hidden)

    def guesser(self, job: Job) -> Guesser | None:
        settings = job.sampler
        if settings.temperature <= 0 and not settings.logit_bias:
            return None
        # What looks back would have to be rewound with the drafter.
        blind = replace(
            settings,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            repeat_penalty=1.0,
            dry_multiplier=0.0,
        )
        return ChainSampler(blind, self._model, self._eog)

    def _chain(self, job: Job) -> ChainSampler:
        return ChainSampler(job.sampler, self._model, self._eog, job.tokens)

    def _grammar(self, job: Job) -> Grammar:
        if not self._eog:
            raise GrammarRefused("this model has no token that ends an answer")
        try:
            return Grammar(self._model, job.grammar)
        except GrammarFailed as error:
            raise GrammarRefused(f"the grammar cannot be read: {error}") from None

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def save(self, sequence: int) -> memoryview:
        return self._context.state(sequence)

    def load(self, sequence: int, state: memoryview) -> bool:
        return self._context.restore(sequence, state)

    def spelling(self, token: int) -> bytes:
        return self._pieces[token] or self._model.piece(token, special=True)

    def ends(self, token: int) -> bool:
        return token in self._eog
