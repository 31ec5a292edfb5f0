"""Weights and vocabulary of one GGUF file."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C

from backends.engine.llama import library
from backends.engine.protocol import SamplerSettings

DRY_KEPT = 8
"""Settings of DRY whose sampler is kept for copying."""
PENALTY_WINDOW = 1 << 16
"""Tokens that penalties look back on at most."""
_BREAKERS = (b"\n", b":", b'"', b"*")
"""Across these DRY sees no repetition: llama.cpp's own defaults."""


class LoadFailed(Exception):
    """llama.cpp refused a file or a context; the message says which and why."""


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The vocabulary's fill-in-the-middle ids; -1 where it has none."""

    prefix: int
    suffix: int
    middle: int
    repo: int
    separator: int

    @property
    def usable(self) -> bool:
        return min(self.prefix, self.suffix, self.middle) >= 0


class Model:
    """Weights (or only the vocabulary) of one GGUF file. `close` frees them."""

    def __init__(self, path: Path, *, vocab_only: bool = False, gpu_layers: int = 0) -> None:
        params = C.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = gpu_layers
        self._model = C.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise LoadFailed(f"llama.cpp could not load {path.name}: {library.last_words()}")
        self.vocab = C.llama_model_get_vocab(self._model)
        self.tokens: int = C.llama_vocab_n_tokens(self.vocab)
        self._dry: dict[tuple[float, ...], Any] = {}
        # Hyperparameters are not read with the vocabulary alone; the file's metadata always is.
        length = self.meta(f"{self.meta('general.architecture')}.context_length")
        self.trained = int(length) if length.isdecimal() else 0
        self.bos: int = C.llama_vocab_bos(self.vocab)
        self.eos: int = C.llama_vocab_eos(self.vocab)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(self.vocab)
        self.byte_level: bool = C.llama_vocab_type(self.vocab) == C.LLAMA_VOCAB_TYPE_BPE
        self.fim = FimTokens(
            C.llama_vocab_fim_pre(self.vocab),
            C.llama_vocab_fim_suf(self.vocab),
            C.llama_vocab_fim_mid(self.vocab),
            C.llama_vocab_fim_rep(self.vocab),
            C.llama_vocab_fim_sep(self.vocab),
        )

    @property
    def handle(self) -> Any:
        return self._model

    @property
    def rewinds(self) -> bool:
        """Whether a sequence's tail can be removed: recurrent and hybrid models cannot."""
        return not (C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model))

    @property
    def head(self) -> int:
        """Numbers in a head's key, as far as the file tells; 0 if it does not."""
        architecture = self.meta("general.architecture")
        own = self.meta(f"{architecture}.attention.key_length")
        if own.isdecimal():
            return int(own)
        heads = C.llama_model_n_head(self._model)
        return int(C.llama_model_n_embd(self._model)) // heads if heads > 0 else 0

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_desc(self._model, buffer, 256)
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str:
        raw = C.llama_model_chat_template(self._model, None)
        return raw.decode("utf-8", "replace") if raw else ""

    def meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(4096)
        size = C.llama_model_meta_val_str(self._model, key.encode(), buffer, 4096)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else ""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The token's bytes; b"" for control tokens unless `special`."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = C.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def pieces(self, *, special: bool = False) -> list[bytes]:
        return [self.piece(token, special=special) for token in range(self.tokens)]

    def ends(self, token: int) -> bool:
        return bool(C.llama_vocab_is_eog(self.vocab, token))

    def eog(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(t for t in range(self.tokens) if C.llama_vocab_is_eog(self.vocab, t))

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        room = len(text) + 8
        buffer = (C.llama_token * room)()
        count = C.llama_tokenize(
            self.vocab, text, len(text), buffer, room, add_special, parse_special
        )
        if count < 0:
            room = -count
            buffer = (C.llama_token * room)()
            count = C.llama_tokenize(
                self.vocab, text, len(text), buffer, room, add_special, parse_special
            )
        return list(buffer[:count])

    def dry(self, settings: SamplerSettings) -> Any:
        """A DRY sampler of its own for the caller.

        Making one goes through the whole vocabulary in search of the breakers, 32 ms for 152,000
        tokens, and nobody's step goes on meanwhile; copying one takes microseconds.
        """
        key = (
            settings.dry_multiplier,
            settings.dry_base,
            settings.dry_allowed_length,
            looked_back(settings.dry_penalty_last_n),
        )
        fresh = self._dry.pop(key, None) or C.llama_sampler_init_dry(
            self.vocab, *key, (ctypes.c_char_p * len(_BREAKERS))(*_BREAKERS), len(_BREAKERS)
        )
        self._dry[key] = fresh
        if len(self._dry) > DRY_KEPT:
            C.llama_sampler_free(self._dry.pop(next(iter(self._dry))))
        return C.llama_sampler_clone(fresh)

    def close(self) -> None:
        for sampler in self._dry.values():
            C.llama_sampler_free(sampler)
        self._dry.clear()
        if self._model:
            C.llama_model_free(self._model)
            self._model = None


def looked_back(tokens: int) -> int:
    """How many tokens a penalty looks back on that was set so; negative: all of them."""
    return PENALTY_WINDOW if tokens < 0 else min(tokens, PENALTY_WINDOW)
