"""llama.cpp's C API as the worker and its helper need it: typed, numpy-backed, nothing more.

Only those two processes import this module: several misuses of the API end the process (an
over-full batch, a row sampled without logits), so callers stay inside the limits that `Context`
states, and `Context` checks them once more before every call.
"""

from __future__ import annotations

import ctypes
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from backends.engine.gumbel import Noise, margin
from backends.engine.protocol import SamplerSettings

Floats = NDArray[np.float32]

PENALTY_WINDOW = 1 << 16
"""Tokens that penalties look back on at most."""
DRY_KEPT = 8
"""Settings of DRY whose sampler is kept for copying."""

_WARNING = 3
_said: deque[str] = deque(maxlen=40)


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _hear(level: int, text: bytes, _data: object) -> None:
    """Keep what llama.cpp warns about; it comes in fragments, and info would flood stderr."""
    if level >= _WARNING:
        _said.append(text.decode("utf-8", "replace"))


def start() -> None:
    """Once per process, before a model is loaded. C keeps `_hear`, so it is a module global."""
    C.llama_log_set(_hear, ctypes.c_void_p(0))
    C.llama_backend_init()


def last_words() -> str:
    """The end of what llama.cpp complained about, for an operator's eyes."""
    return "; ".join("".join(_said).strip(" .\n").splitlines())[-400:]


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
            raise LoadFailed(f"llama.cpp could not load {path.name}: {last_words()}")
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
            _window(settings.dry_penalty_last_n),
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


class DecodeFailed(Exception):
    """llama_decode said no. code 1: no cells free; 2: aborted; -1: an invalid batch; else fatal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code


KV_TYPES = {"f16": C.GGML_TYPE_F16, "q8_0": C.GGML_TYPE_Q8_0, "q4_0": C.GGML_TYPE_Q4_0}
"""What a KV cell's numbers are kept as, for keys and values alike."""


class Context:
    """KV cells and compute buffers over a model. One thread owns it.

    `batch` bounds the rows of one decode, `outputs` those of them whose logits are wanted.
    `unified`: sequences share all `cells`; otherwise each of `sequences` has its equal part, in
    which its tokens always lie in order, whatever other sequences do. Rows that lie in neighbouring
    parts are computed together: a gap between the sequences of a batch divides it.
    """

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        sequences: int,
        batch: int,
        outputs: int,
        threads: int,
        flash_attention: bool,
        unified: bool,
        offload: bool = False,
        kv: str = "f16",
    ) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = sequences
        params.n_outputs_max = outputs  # 0 would reserve logits for a whole batch: 300 MB at 152k
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        params.flash_attn_type = (
            C.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = KV_TYPES[kv]
        params.offload_kqv = params.op_offload = offload
        params.no_perf = True
        self._context = C.llama_init_from_model(model.handle, params)
        if not self._context:
            raise LoadFailed(f"llama.cpp could not make a context: {last_words()}")
        self._memory = C.llama_get_memory(self._context)
        self._unified = unified
        self.batch, self.outputs, self.vocab = batch, outputs, model.tokens
        self.cells: int = C.llama_n_ctx(self._context)
        # numpy owns the arrays that the C struct points to: filling it is five slice assignments
        # a step instead of five ctypes writes a token.
        self._token = np.zeros(batch, np.int32)
        self._pos = np.zeros(batch, np.int32)
        self._n_seq = np.ones(batch, np.int32)
        self._wanted = np.zeros(batch, np.int8)
        self._ids = np.arange(sequences, dtype=np.int32)
        self._seq = np.zeros(batch, np.uintp)
        self._struct = C.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            embd=None,
            pos=self._pos.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        """Run one batch; the logits of the wanted rows in batch order, valid until the next call.

        Raises DecodeFailed. After code 1 and -1 the cells are as before the call.
        """
        n, outputs = len(tokens), sum(wanted)
        if not 0 < n <= self.batch or outputs > self.outputs:
            raise DecodeFailed(-1)  # would be an assertion in C, which ends the process
        self._token[:n] = tokens
        self._pos[:n] = positions
        self._seq[:n] = self._ids.ctypes.data + 4 * np.asarray(sequences, np.uintp)
        self._wanted[:n] = wanted
        self._struct.n_tokens = n
        code = C.llama_decode(self._context, self._struct)
        if code != 0:
            raise DecodeFailed(code)
        if outputs == 0:
            return np.empty((0, self.vocab), np.float32)
        pointer = C.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(outputs, self.vocab))

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        """Free a sequence's cells at positions start <= p < end; -1 means to the end."""
        C.llama_memory_seq_rm(self._memory, sequence, start, end)

    def copy(self, source: int, target: int, end: int) -> None:
        """Let `target`, which is empty, hold what `source` holds at positions below `end`.

        Unified cells are shared. From part to part llama.cpp would copy whole parts, at the next
        decode; a state is as long as the sequence, and is copied now.
        """
        if self._unified:
            C.llama_memory_seq_cp(self._memory, source, target, 0, end)
        elif self.restore(target, self.state(source)):
            self.remove(target, end)

    def state(self, sequence: int) -> memoryview:
        """All that a sequence's cells hold, as llama.cpp writes it."""
        size = C.llama_state_seq_get_size(self._context, sequence)
        held = np.empty(size, np.uint8)
        size = C.llama_state_seq_get_data(self._context, _bytes(held), size, sequence)
        return held.data[:size]

    def restore(self, sequence: int, state: memoryview) -> bool:
        """Fill an empty sequence. False, and it is empty, if the cells have no room for it."""
        held = np.frombuffer(state, np.uint8)
        return bool(C.llama_state_seq_set_data(self._context, _bytes(held), len(held), sequence))

    def last(self, sequence: int) -> int:
        """The highest position that a sequence holds, -1 if it holds nothing."""
        return int(C.llama_memory_seq_pos_max(self._memory, sequence))

    def close(self) -> None:
        if self._context:
            C.llama_free(self._context)
            self._context = None


def _bytes(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_BREAKERS = (b"\n", b":", b'"', b"*")
"""Across these DRY sees no repetition: llama.cpp's own defaults."""


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
        self._items = np.zeros(vocab, _CANDIDATE)
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
            parts.append(C.llama_sampler_init_top_k(settings.top_k))
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
            window = _window(settings.repeat_last_n)
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
        array = C.llama_token_data_array(
            data=self._items.ctypes.data_as(ctypes.POINTER(C.llama_token_data)),
            size=len(self._items),
            selected=-1,
            sorted=False,
        )
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


def _window(tokens: int) -> int:
    return PENALTY_WINDOW if tokens < 0 else min(tokens, PENALTY_WINDOW)


class GrammarFailed(Exception):
    """llama.cpp cannot read a grammar; the message says why, if it said so."""


class Grammar:
    """A GBNF grammar on its way through one text. Its root rule is `root`."""

    def __init__(self, model: Model, text: str) -> None:
        self._one = np.zeros(1, _CANDIDATE)
        self._all = np.zeros(model.tokens, _CANDIDATE)
        self._ids = np.arange(model.tokens, dtype=np.int32)
        _said.clear()
        raw = text.encode("utf-8", "replace").replace(b"\0", b"")
        self._sampler = C.llama_sampler_init_grammar(model.vocab, raw, b"root")
        if not self._sampler:
            raise GrammarFailed(last_words()[:200])

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
        array = C.llama_token_data_array(
            data=items.ctypes.data_as(ctypes.POINTER(C.llama_token_data)),
            size=len(items),
            selected=-1,
            sorted=False,
        )
        C.llama_sampler_apply(self._sampler, ctypes.byref(array))
