"""What one engine's worker will take here, and where that must end.

The estimate is exact (memory.py) for what is known beforehand; a damaged file or a bug can make
llama.cpp ask for more than any machine has, and a kernel that overcommits then ends somebody, not
always the one who asked. So what the machine cannot hold is refused before anything starts, and the
worker's address space is bounded, far above its needs: a bound that is met is a fault.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from backends.engine.gguf import Gguf
from backends.engine.memory import Context, Memory, memory
from backends.engine.pooling import ENCODERS, room_for
from backends.engine.settings import EngineSettings
from backends.engine.shape import shape

GIB = 1 << 30
MARGIN = 3
"""Address space over the estimate: allocators reserve more than they use, and some of the weights
are mapped twice for a moment."""
SPARE = 2 * GIB
THREAD = 256 << 20
"""Address space that a thread may reserve: its stack and an allocator's arena of its own."""


def footprint(head: Gguf, settings: EngineSettings, draft: Gguf | None = None) -> Memory:
    """As worker.py makes its contexts, and drafters.py that of a model that drafts.

    `settings.context` must be known. Raises GgufError.
    """
    parts = []
    if settings.generates:
        parts.append(memory(head, _generating(head, settings)))
        if draft is not None:
            parts.append(memory(draft, _drafting(draft, settings)))
    if settings.pooling is not None:
        embedding = memory(head, _embedding(settings))
        if head.architecture in ENCODERS:
            embedding = replace(embedding, kv=0)
        if settings.generates:  # the weights are there already
            embedding = replace(embedding, weights=0, repacked=0)
        parts.append(embedding)
    assert parts, "a model is loaded for something"
    return Memory(
        weights=sum(part.weights for part in parts),
        repacked=sum(part.repacked for part in parts),
        kv=sum(part.kv for part in parts),
        recurrent=sum(part.recurrent for part in parts),
        compute=sum(part.compute for part in parts),
        worker=parts[0].worker,
    )


def _generating(head: Gguf, settings: EngineSettings) -> Context:
    verify = min(settings.verify, max(1, settings.batch // settings.slots) - 1)
    return Context(
        cells=settings.pool,
        sequences=settings.sequences,
        batch=settings.batch,
        outputs=max(settings.slots * (verify + 1), settings.sequences),
        kv_key=settings.kv,
        kv_value=settings.kv,
        unified=not settings.parts,
        flash_attention=settings.flash(shape(head).key),
    )


def _drafting(draft: Gguf, settings: EngineSettings) -> Context:
    return Context(
        cells=max(settings.cells or settings.context * settings.slots, settings.context),
        sequences=settings.slots,
        batch=settings.batch,
        outputs=settings.slots,
        flash_attention=settings.flash(shape(draft).key),
    )


def _embedding(settings: EngineSettings) -> Context:
    room = room_for(
        settings.context,
        whole=settings.whole,
        batch=settings.batch,
        offload=settings.gpu_layers > 0,
    )
    return Context(
        cells=room.context,
        sequences=room.sequences,
        batch=room.rows,
        outputs=room.rows,
        flash_attention=settings.flash_attention is not False,
    )


def refusal(needed: Memory, available: int | None) -> str:
    """Why this cannot run here, as a sentence; "" if it may.

    Weights do not count: they are mapped, and a machine with less memory is slow but not dead.
    """
    fixed = needed.total - needed.weights
    if available is None or fixed <= available:
        return ""
    return (
        f"it needs {fixed / GIB:.1f} GiB beside its weights, most of it for KV cells, and this"
        f" machine has {available / GIB:.1f} GiB; configure less context, cells or slots"
    )


def address_space(needed: Memory, settings: EngineSettings, shared: int = 0) -> int:
    """What the worker may take beyond its empty self, `shared` bytes of mapped memory included; 0
    for no bound: GPU drivers reserve at will, and what a device holds is not in the estimate."""
    if settings.gpu_layers:
        return 0
    return MARGIN * needed.total + SPARE + settings.threads * THREAD + shared


def resident(pid: int | None) -> int | None:
    """Bytes that a worker has in memory now, None if that is not known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_memory() -> int | None:
    """Bytes that processes here can have: memory and swap, or what a container is allowed."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    total = 1024 * (kilobytes["MemTotal"] + kilobytes.get("SwapTotal", 0))
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        allowed = "max"
    return min(total, int(allowed)) if allowed.isdecimal() else total
