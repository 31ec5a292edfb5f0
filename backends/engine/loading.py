"""From settings to what a worker computes with, and the first proof that it computes."""

from __future__ import annotations

import mmap
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from backends.engine import gguf, memory
from backends.engine.decoding import NOT_NUMBERS, Floats
from backends.engine.embedder import Embedder, EncodeFailed
from backends.engine.llama.context import Context
from backends.engine.llama.encoder import LlamaEncoder
from backends.engine.llama.model import LoadFailed, Model
from backends.engine.pooling import room_for
from backends.engine.settings import EngineSettings
from backends.engine.shape import shape
from backends.engine.slots import Limits
from backends.engine.snapshots import Snapshots, fingerprint


def load(settings: EngineSettings) -> tuple[Model, Context, Limits]:
    _require_kv(settings)
    model = Model(Path(settings.model), gpu_layers=settings.gpu_layers)
    slots = settings.slots
    if settings.strict and not model.rewinds:
        raise LoadFailed("strict needs a model whose sequences can be rewound")
    settings = replace(settings, context=settings.context or model.trained)
    whole = settings.context * slots
    limits = Limits(
        context=settings.context,
        cells=whole if settings.parts else settings.cells or whole,
        slots=slots,
        parts=settings.parts,
        batch=settings.batch,
        chunk=min(settings.chunk, settings.batch),
        verify=min(settings.verify, settings.batch // slots - 1) if model.rewinds else 0,
        queue=settings.queue,
        # A parked sequence is one that was rewound, and so is one whose beginning is reused.
        cached=0 if settings.strict or not model.rewinds else settings.cached,
        optimism=1.0 if settings.strict or not model.rewinds else settings.optimism,
    )
    # llama.cpp reserves a row of logits for each sequence, and aborts where it may not.
    outputs = max(slots * (limits.verify + 1), settings.sequences)
    cells = Context(
        model,
        cells=settings.pool,
        sequences=settings.sequences,
        batch=settings.batch,
        outputs=outputs,
        threads=settings.threads,
        flash_attention=settings.flash(model.head),
        unified=not settings.parts,
        offload=settings.gpu_layers > 0,
        kv=settings.kv,
    )
    return model, cells, replace(limits, scores=min(outputs, limits.batch))


def snapshots(settings: EngineSettings) -> Snapshots | None:
    """Those of the memory that this worker inherited."""
    if settings.snapshots < 0:
        return None
    facts = (
        settings.kv,
        str(settings.flash_attention),
        str(settings.gpu_layers),
        version("llama_cpp_python"),
    )
    memory = mmap.mmap(settings.snapshots, 0)
    return Snapshots(memory, fingerprint(Path(settings.model), *facts))


def load_embedder(settings: EngineSettings, model: Model) -> Embedder | None:
    """Raises LoadFailed if what comes out of a short text is not a number."""
    if settings.pooling is None:
        return None
    offload = settings.gpu_layers > 0
    room = room_for(
        settings.context or model.trained,
        whole=settings.whole,
        batch=settings.batch,
        offload=offload,
    )
    encoder = LlamaEncoder(
        model,
        room,
        threads=settings.threads,
        flash_attention=settings.flash_attention is not False,
        offload=offload,
    )
    try:
        text = [token % model.tokens for token in range(7, 11)]
        rows = encoder.encode(text, [0, 1, 2, 3], [0] * 4)
    except EncodeFailed as error:
        raise LoadFailed(f"the model does not embed: {error}") from error
    if np.isnan(rows).any():
        raise LoadFailed(NOT_NUMBERS)
    encoder.clear()
    return Embedder(encoder, settings.pooling, room)


def _require_kv(settings: EngineSettings) -> None:
    """Raises LoadFailed if the model cannot have the configured KV type: llama.cpp says only no."""
    if settings.kv == "f16":
        return
    try:
        found = shape(gguf.read(Path(settings.model)))
    except gguf.GgufError as error:
        raise LoadFailed(str(error)) from error
    flash = settings.flash_attention is not False
    why = memory.quantized_kv_refusal(found, settings.kv, settings.kv, flash)
    if why:
        raise LoadFailed(why)


def probe(model: Model, context: Context, verify: int, rows: int = 10) -> tuple[str, float]:
    """Decode a short text at the widths that verifying uses: are the logits the same, bit for bit?

    "bitwise": they are, so strict sequences do not depend on how many tokens a pass verified.
    "tie-tolerant": they are not (K-quants, some GPUs). Beside it twice the largest difference of a
    logit between any two widths, one included: what is closer than that is a tie. Also the proof
    that the model decodes at all: raises LoadFailed if what comes out is not a number.
    """
    text = [token % model.tokens for token in range(7, 7 + rows)]
    seen: dict[int, Floats] = {}
    for width in sorted({1, 2, 3, 5, verify + 1} & set(range(1, context.outputs + 1))):
        logits = []
        for start in range(0, rows, width):
            part = text[start : start + width]
            positions = list(range(start, start + len(part)))
            wanted = [True] * len(part)
            logits.append(context.decode(part, positions, [0] * len(part), wanted).copy())
        context.remove(0)
        # A last part of one row is of another class: no strict sequence is ever that narrow.
        seen[width] = np.concatenate(logits)[: rows - 1]
        if np.isnan(seen[width]).any():
            raise LoadFailed(NOT_NUMBERS)
    first, *others = seen.values()
    apart = max((float(np.abs(first - logits).max()) for logits in others), default=0.0)
    wide = [logits for width, logits in seen.items() if width > 1]
    same = len(wide) > 1 and all(np.array_equal(wide[0], logits) for logits in wide[1:])
    return "bitwise" if same else "tie-tolerant", 2 * apart
