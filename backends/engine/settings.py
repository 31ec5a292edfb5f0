"""What a worker is started with: plain values, JSON on its command line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.engine.pooling import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`context` is one sequence's bound in tokens (0: as trained), `cells` all sequences' together
    (0: a whole context for each slot). `verify` bounds the draft tokens of one pass: below 64 wide,
    where llama.cpp's attention takes another path and other bits (design.md). `cached`: ended
    sequences kept for prompts that begin alike; `optimism`: the share of `max_tokens` that an
    admission reserves. Strict engines do neither. `flash_attention` None: on, but for heads that
    are too small for it to pay. `snapshots` is the descriptor of the memory for
    evicted sequences (-1: none), which the worker inherits. `memory`: bytes of address space that
    the worker may take beyond its empty self (0: as many as there are). `speculate`: whether the
    worker drafts for itself: off, auto (where it pays) or always; `draft` is the file of a model
    that drafts too. `generates`, `pooling` and `whole` say what the model is loaded for
    (pooling.py).
    """

    model: str
    context: int = 0
    cells: int = 0
    slots: int = 4
    threads: int = 1
    batch: int = 512
    chunk: int = 64
    verify: int = 8
    queue: int = 64
    cached: int = 16
    optimism: float = 0.25
    strict: bool = False
    flash_attention: bool | None = None
    kv: str = "f16"
    gpu_layers: int = 0
    snapshots: int = -1
    memory: int = 0
    speculate: str = "off"
    draft: str = ""
    generates: bool = True
    pooling: Pooling | None = None
    whole: bool = False

    def json(self) -> str:
        return json.dumps(asdict(self))


def default_threads() -> int:
    """One less than the physical cores this process may use, but one at least.

    All of them beside HTTP workers would make every step wait for the core that is busy elsewhere:
    llama.cpp's threads meet at a barrier some hundred times a step.
    """
    cores = set()
    for cpu in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(2):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores) - 1)
