"""Exact bytes: what a model's weights, KV cells, states and computation take. Pure.

Never from the parameter count: two models of 70 billion differ eightfold in what a token costs,
by their KV heads alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.engine.compute import compute_bytes
from backends.engine.gguf import Gguf
from backends.engine.shape import Shape, shape

KV_BYTES: Mapping[str, tuple[int, int]] = {
    "f32": (4, 1), "f16": (2, 1), "bf16": (2, 1), "q8_0": (34, 32), "q5_1": (24, 32),
    "q5_0": (22, 32), "q4_1": (20, 32), "q4_0": (18, 32), "iq4_nl": (18, 32),
}  # fmt: skip
"""KV type → (bytes, of so many numbers)"""

WORKER_BYTES = 45_000_000
"""The worker without a model: interpreter, numpy, llama.cpp. Measured."""
REPACKED = frozenset({"Q4_0", "IQ4_NL"})
"""Types whose tensors llama.cpp copies into another order at load (x86 and Arm CPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How a context is made; the fields are llama.cpp's. `window_full`: windowed layers keep all
    cells, which rewinding and sharing need, and which is how our engine runs.
    """

    cells: int
    sequences: int = 1
    batch: int = 512
    outputs: int = 16
    kv_key: str = "f16"
    kv_value: str = "f16"
    unified: bool = True
    window_full: bool = True
    flash_attention: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by what they are for."""

    weights: int
    repacked: int
    kv: int
    recurrent: int
    compute: int
    worker: int = WORKER_BYTES

    @property
    def total(self) -> int:
        parts = (self.weights, self.repacked, self.kv, self.recurrent, self.compute, self.worker)
        return sum(parts)


def memory(gguf: Gguf, context: Context) -> Memory:
    """What a worker with this model and context takes, most of it before the first request.

    Weights are mapped from the file: they count as used, though the kernel may drop them.
    """
    found = shape(gguf)
    repacked = sum(t.size for t in gguf.tensors if t.type in REPACKED and len(t.shape) > 1)
    return Memory(
        weights=gguf.size,
        repacked=repacked,
        kv=kv_bytes(found, context),
        recurrent=recurrent_bytes(found, context.sequences),
        compute=compute_bytes(
            found,
            cells=padded(context.cells) // (1 if context.unified else context.sequences),
            window_cells=window_cells(found, context),
            batch=min(context.batch, padded(context.cells)),
            outputs=context.outputs,
            sequences=context.sequences,
            flash_attention=context.flash_attention,
        ),
    )


def padded(cells: int) -> int:
    """llama.cpp rounds a context up to 256 cells."""
    return -(-cells // 256) * 256


def bytes_per_token(shape: Shape, key: str = "f16", value: str = "f16") -> int:
    """What one more token takes while no window is full."""
    return sum(_row(shape, layer.kv_heads, key, value) for layer in shape.layers)


def kv_bytes(shape: Shape, context: Context) -> int:
    """The KV cells of all layers that have attention."""
    whole, windowed = padded(context.cells), window_cells(shape, context)
    if not context.unified:
        windowed *= context.sequences
    return sum(
        _row(shape, layer.kv_heads, context.kv_key, context.kv_value)
        * (windowed if layer.windowed else whole)
        for layer in shape.layers
    )


def window_cells(shape: Shape, context: Context) -> int:
    """Cells (a sequence's own, if they are split) that a windowed layer keeps."""
    whole = padded(context.cells) // (1 if context.unified else context.sequences)
    if context.window_full or not shape.window:
        return whole
    shared = context.sequences if context.unified else 1
    return padded(min(whole, shape.window * shared + min(context.batch, whole)))


def recurrent_bytes(shape: Shape, sequences: int) -> int:
    """The states of recurrent layers: per sequence, whatever its length; always float32."""
    if shape.recurrence is None:
        return 0
    layers = sum(layer.recurrent for layer in shape.layers)
    return 4 * layers * sequences * (shape.recurrence.convolution + shape.recurrence.state)


def quantized_kv_refusal(shape: Shape, key: str, value: str, flash_attention: bool) -> str | None:
    """Why these KV types cannot be used with this model, as a sentence, or None."""
    quantized = [kind for kind in (key, value) if KV_BYTES[kind][1] > 1]
    if not quantized:
        return None
    if value in quantized and not flash_attention:
        return f"KV cells of type {value} need flash attention, which is switched off."
    rows = (shape.key,) if shape.latent else (shape.key, shape.value)
    odd = [row for row in rows if row % 32]
    if odd and any(layer.kv_heads for layer in shape.layers):
        return (
            f"KV cells of type {quantized[0]} need a head size that is a multiple of 32, and this"
            f" model's is {odd[0]}; use f16."
        )
    return None


def _row(shape: Shape, kv_heads: int, key: str, value: str) -> int:
    """Bytes of one token in one layer."""
    if not kv_heads:
        return 0
    if shape.latent:
        return _bytes(shape.latent.rank + shape.latent.rope, key)
    return _bytes(kv_heads * shape.key, key) + _bytes(kv_heads * shape.value, value)


def _bytes(numbers: int, kind: str) -> int:
    size, block = KV_BYTES[kind]
    return numbers * size // block
