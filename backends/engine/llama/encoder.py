"""llama.cpp as the embedder needs it: a context of its own over a model that may also generate.

Only the worker imports this. The pooling is ours (embedder.py), over a row for each token:
llama.cpp pools within one batch only, and would need room for the longest text's logits in it.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as C
import numpy as np

from backends.engine.embedder import EncodeFailed, Floats
from backends.engine.llama import library
from backends.engine.llama.model import LoadFailed, Model
from backends.engine.pooling import Room


class LlamaEncoder:
    """Cells for one long text or some short ones. One thread owns it."""

    def __init__(
        self,
        model: Model,
        room: Room,
        *,
        threads: int,
        flash_attention: bool,
        offload: bool = False,
    ) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = room.context
        params.n_batch = params.n_ubatch = params.n_outputs_max = room.rows
        params.n_seq_max = room.sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = (
            C.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.embeddings = True
        params.pooling_type = C.LLAMA_POOLING_TYPE_NONE
        params.offload_kqv = params.op_offload = offload
        params.no_perf = True
        self._context = C.llama_init_from_model(model.handle, params)
        if not self._context:
            raise LoadFailed(
                f"llama.cpp could not make a context for embeddings: {library.last_words()}"
            )
        self._memory = C.llama_get_memory(self._context)
        self._rows, self._width = room.rows, C.llama_model_n_embd_out(model.handle)
        self.vocab = model.tokens
        rows = room.rows
        self._token = np.zeros(rows, np.int32)
        self._pos = np.zeros(rows, np.int32)
        self._n_seq = np.ones(rows, np.int32)
        self._wanted = np.ones(rows, np.int8)
        self._ids = np.arange(room.sequences, dtype=np.int32)
        self._seq = np.zeros(rows, np.uintp)
        self._struct = C.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            embd=None,
            pos=self._pos.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def encode(self, tokens: list[int], positions: list[int], sequences: list[int]) -> Floats:
        n = len(tokens)
        if not 0 < n <= self._rows:
            raise EncodeFailed("a batch of the wrong size")  # C would end the process
        self._token[:n] = tokens
        self._pos[:n] = positions
        self._seq[:n] = self._ids.ctypes.data + 4 * np.asarray(sequences, np.uintp)
        self._struct.n_tokens = n
        # A model without cells is encoded: llama_decode would do it too, and complain each time.
        run = C.llama_decode if self._memory else C.llama_encode
        code = run(self._context, self._struct)
        if code != 0:
            raise EncodeFailed(f"llama.cpp returned {code}")
        pointer = C.llama_get_embeddings(self._context)
        if not pointer:
            raise EncodeFailed("the model gives no embeddings")
        return np.ctypeslib.as_array(pointer, shape=(n, self._width))

    def clear(self) -> None:
        if self._memory:
            C.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        if self._context:
            C.llama_free(self._context)
            self._context = None
