"""A grammar's state as llama.cpp keeps it: which tokens may come next."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np

from backends.engine.decoding import Floats
from backends.engine.llama import library
from backends.engine.llama.candidates import CANDIDATE, array_of
from backends.engine.llama.model import Model


class GrammarFailed(Exception):
    """llama.cpp cannot read a grammar; the message says why, if it said so."""


class Grammar:
    """A GBNF grammar on its way through one text. Its root rule is `root`."""

    def __init__(self, model: Model, text: str) -> None:
        self._one = np.zeros(1, CANDIDATE)
        self._all = np.zeros(model.tokens, CANDIDATE)
        self._ids = np.arange(model.tokens, dtype=np.int32)
        library.forget()
        raw = text.encode("utf-8", "replace").replace(b"\0", b"")
        self._sampler = C.llama_sampler_init_grammar(model.vocab, raw, b"root")
        if not self._sampler:
            raise GrammarFailed(library.last_words()[:200])

    def allows(self, token: int) -> bool:
        """Whether the text may go on with a token; for one that ends a generation, whether it may
        end here. Costs microseconds; all tokens at once cost milliseconds.
        """
        self._one["id"] = token
        self._one["logit"] = 0.0
        self._apply(self._one)
        return bool(self._one["logit"][0] > -np.inf)

    def mask(self, logits: Floats) -> Floats:
        """A copy of a row of logits with minus infinity at every token that is not allowed."""
        self._all["id"] = self._ids
        self._all["logit"] = logits
        self._apply(self._all)
        return np.array(self._all["logit"])

    def accept(self, token: int) -> None:
        """Go on with a token that `allows` has just said yes to: any other ends the process."""
        C.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        if self._sampler:
            C.llama_sampler_free(self._sampler)
            self._sampler = None

    def _apply(self, items: Any) -> None:
        array = array_of(items)
        C.llama_sampler_apply(self._sampler, ctypes.byref(array))
