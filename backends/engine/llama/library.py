"""The library's start, and what it complained about."""

from __future__ import annotations

import ctypes
from collections import deque

import llama_cpp.llama_cpp as C

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


def forget() -> None:
    """What it says from now on is about the next call."""
    _said.clear()


def last_words() -> str:
    """The end of what llama.cpp complained about, for an operator's eyes."""
    return "; ".join("".join(_said).strip(" .\n").splitlines())[-400:]
