"""One exported GGUF file run greedily by llama.cpp: what is measured is what ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

LIMIT = 120  # tokens per answer: the longest expected ones have about 110


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
        # The same prompts are asked for exact answers and for agreement.
        self.known: dict[tuple[str, int, bool], list[int]] = {}
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

    def greedy(self, prompt: str, *, limit: int = LIMIT, one_line: bool = False) -> list[int]:
        """The most likely continuation without its end token; `one_line`: until a line is full."""
        key = (prompt, limit, one_line)
        if key not in self.known:
            self.known[key] = list(self._continuation(self.encode(prompt), limit, one_line))
        return self.known[key]

    def answer(self, prompt: str) -> str:
        return self.decode(self.greedy(prompt)).strip()

    def _continuation(self, prompt: list[int], limit: int, one_line: bool) -> Iterator[int]:
        self.llama.reset()
        self.llama.eval(prompt)
        text = ""
        for _ in range(min(limit, self.context - len(prompt) - 1)):
            token = int(np.argmax(self.llama.scores[self.llama.n_tokens - 1]))
            if token in self.ends:
                return
            yield token
            text += self.decode([token])
            if one_line and "\n" in text.lstrip():
                return
            self.llama.eval([token])

    def choices(self, tokens: Sequence[int]) -> list[int]:
        """For every position the token that greedy decoding would put after it."""
        self.llama.reset()
        self.llama.eval(list(tokens))
        found: list[int] = np.argmax(self.llama.scores[: len(tokens)], axis=1).tolist()
        return found
