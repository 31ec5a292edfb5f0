"""One exported GGUF file run greedily by llama.cpp: what is measured is what ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np


class Runner:
    """A model file, one sequence at a time. llama.cpp keeps the common prefix between calls."""

    def __init__(self, path: Path, *, context: int) -> None:
        # Every row's logits are kept: `choices` reads them all.
        self.llama = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            flash_attn=True,
            verbose=False,
        )
        self.context = context
        model = self.llama.model
        self.ends = {
            llama_cpp.llama_vocab_eos(vocab := llama_cpp.llama_model_get_vocab(model)),
            llama_cpp.llama_vocab_eot(vocab),
        }

    def encode(self, text: str) -> list[int]:
        found: list[int] = self.llama.tokenize(text.encode(), add_bos=False, special=True)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        found: bytes = self.llama.detokenize(list(tokens), special=True)
        return found.decode(errors="replace")

    def greedy(self, prompt: Sequence[int], *, limit: int, stop: str = "") -> list[int]:
        """The most likely continuation without its end token; ends early once `stop` is in it."""
        limit = min(limit, self.context - len(prompt) - 1)
        found: list[int] = []
        if limit <= 0:
            return found
        self.llama.reset()
        self.llama.eval(list(prompt))
        while len(found) < limit:
            token = int(np.argmax(self.llama.scores[self.llama.n_tokens - 1]))
            if token in self.ends:
                break
            found.append(token)
            if stop and stop in self.decode(found):
                break
            self.llama.eval([token])
        return found

    def choices(self, tokens: Sequence[int]) -> list[int]:
        """For every position the token that greedy decoding would put after it."""
        self.llama.reset()
        self.llama.eval(list(tokens))
        found: list[int] = np.argmax(self.llama.scores[: len(tokens)], axis=1).tolist()
        return found
