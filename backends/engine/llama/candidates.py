"""Rows of logits in the form that llama.cpp's samplers take: its arrays over numpy's memory."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np
from numpy.typing import NDArray

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def array_of(items: NDArray[Any]) -> Any:
    """The C array over `items`, which are CANDIDATEs and must outlive it."""
    return C.llama_token_data_array(
        data=items.ctypes.data_as(ctypes.POINTER(C.llama_token_data)),
        size=len(items),
        selected=-1,
        sorted=False,
    )
