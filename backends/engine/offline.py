"""The process for work on model files: quantizing one, comparing two. `python -m` it, with JSON.

A process of its own because llama.cpp may end it (a damaged file, no memory), and because the
command line must not load it. It prints one JSON object a line: {"progress": 0.5} some times, then
{"done": {...}} or {"error": "a sentence"}. offline_client.py starts it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from backends.engine import process
from backends.engine.held_out import TEXT
from backends.engine.llama import library
from backends.engine.llama.context import Context, DecodeFailed
from backends.engine.llama.model import LoadFailed, Model

TYPES = {
    "Q4_0": C.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": C.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": C.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": C.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q8_0": C.LLAMA_FTYPE_MOSTLY_Q8_0,
}
ROWS = 64
"""Rows of logits at a time: 64 of a 152k vocabulary are 39 MB."""
WINDOW = 512
"""Tokens of the text that are read together."""

Doubles = NDArray[np.float64]


class Failed(Exception):
    """The work cannot be done; the message is a sentence for the user."""


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def quantize(source: str, target: str, type: str, threads: int) -> dict[str, Any]:
    """Write `source` to `target` in another type; `target` appears when it is complete."""
    fallback = 0

    @C.llama_log_callback  # type: ignore[untyped-decorator]
    def hear(level: int, text: bytes, _data: object) -> None:
        nonlocal fallback
        line = text.decode("utf-8", "replace")
        if match := re.match(r"\s*\[\s*(\d+)/\s*(\d+)\]", line):
            tell(progress=int(match[1]) / int(match[2]))
        elif match := re.search(r"(\d+) of \d+ tensor\(s\) required fallback", line):
            fallback = int(match[1])

    C.llama_log_set(hear, ctypes.c_void_p(0))
    C.llama_backend_init()
    params = C.llama_model_quantize_default_params()
    params.ftype = TYPES[type]
    params.nthread = threads
    params.allow_requantize = True  # the command line has said what that costs
    partial = Path(target + ".partial")
    try:
        code = C.llama_model_quantize(source.encode(), str(partial).encode(), ctypes.byref(params))
        if code != 0:
            raise Failed(f"llama.cpp cannot quantize {Path(source).name} (code {code}).")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return {"bytes": Path(target).stat().st_size, "fallback": fallback}


def compare(a: str, b: str, text: str | None, threads: int) -> dict[str, Any]:
    """Perplexity of both on a text, KL(A‖B) in nats a token, and how often their argmax agrees."""
    library.start()
    raw = Path(text).read_text("utf-8", "replace") if text else TEXT
    first, second = Model(Path(a)), Model(Path(b))
    tokens = _tokens(first, raw)
    if first.tokens != second.tokens or tokens != _tokens(second, raw):
        raise Failed("The two models have different vocabularies: token by token they say nothing.")
    window = min(WINDOW, *(m.trained for m in (first, second) if m.trained))
    if len(tokens) < 2:
        raise Failed("The text is too short: one token says nothing about the next.")
    scores = _Scores()
    contexts = [_context(each, window, threads) for each in (first, second)]
    for start in range(0, len(tokens) - 1, window):
        part = tokens[start : start + window + 1]
        for (ours, theirs), wanted in zip(
            zip(*(_logits(each, part[:-1]) for each in contexts), strict=True),
            _slices(part[1:]),
            strict=True,
        ):
            scores.add(ours, theirs, wanted)
        tell(progress=min(1.0, (start + window) / len(tokens)))
    return scores.result()


class _Scores:
    """Sums over tokens."""

    def __init__(self) -> None:
        self._tokens = 0
        self._nats = np.zeros(2)
        self._divergence = 0.0
        self._agree = 0

    def add(self, ours: Doubles, theirs: Doubles, wanted: list[int]) -> None:
        rows = np.arange(len(wanted))
        self._tokens += len(wanted)
        self._nats -= [ours[rows, wanted].sum(), theirs[rows, wanted].sum()]
        self._divergence += float((np.exp(ours) * (ours - theirs)).sum())
        self._agree += int((ours.argmax(1) == theirs.argmax(1)).sum())

    def result(self) -> dict[str, Any]:
        if not np.isfinite(self._nats).all():
            raise Failed("A model's output is not a number; its file may be damaged.")
        a, b = (math.exp(min(700.0, float(nats) / self._tokens)) for nats in self._nats)
        return {
            "tokens": self._tokens,
            "perplexity_a": a,
            "perplexity_b": b,
            "kl": max(0.0, self._divergence / self._tokens),
            "agreement": self._agree / self._tokens,
        }


def _tokens(model: Model, text: str) -> list[int]:
    return model.tokenize(text.encode(), add_special=True, parse_special=False)


def _context(model: Model, window: int, threads: int) -> Context:
    return Context(
        model,
        cells=window,
        sequences=1,
        batch=ROWS,
        outputs=ROWS,
        threads=threads,
        flash_attention=True,
        unified=True,
    )


def _slices(items: list[int]) -> Iterator[list[int]]:
    return (items[i : i + ROWS] for i in range(0, len(items), ROWS))


def _logits(context: Context, tokens: list[int]) -> Iterator[Doubles]:
    """Log-probabilities after each token, some rows at a time."""
    context.remove(0)
    position = 0
    for part in _slices(tokens):
        places = list(range(position, position + len(part)))
        logits = context.decode(part, places, [0] * len(part), [True] * len(part))
        position += len(part)
        exact = logits.astype(np.float64)
        exact -= exact.max(1, keepdims=True)
        yield exact - np.log(np.exp(exact).sum(1, keepdims=True))


def main() -> None:
    order: Mapping[str, Any] = json.loads(sys.argv[1])
    process.die_with(int(sys.argv[2]))
    process.no_core_dump()
    process.prefer_as_oom_victim()
    work: Callable[..., dict[str, Any]] = {"quantize": quantize, "compare": compare}[order["op"]]
    try:
        tell(done=work(**order["arguments"]))
    except Failed as error:
        tell(error=str(error))
    except (LoadFailed, DecodeFailed) as error:
        tell(error=f"{error}.")
    except OSError as error:
        tell(error=f"{error.filename}: {error.strerror}.")
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's threads may still sleep in a barrier


if __name__ == "__main__":
    main()
