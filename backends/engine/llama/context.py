"""KV cells and compute buffers: decode a batch, forget, copy, save and restore sequences."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from backends.engine.decoding import Floats
from backends.engine.llama import library
from backends.engine.llama.model import LoadFailed, Model


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
            raise LoadFailed(f"llama.cpp could not make a context: {library.last_words()}")
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
