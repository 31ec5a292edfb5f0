"""What a worker is started with: plain values, JSON on its command line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.engine.pooling import Pooling

SMALL_HEAD = 16
"""Below it flash attention costs more than it saves: it goes through the cells one by one. 1.5 to 2
times slower at 8 numbers, no difference at 32 (design.md)."""


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

    @property
    def parts(self) -> bool:
        """Whether each sequence has a part of the cells to itself. `context` must be known.

        Where all share them every row looks at everybody's cells, kept ones too, so that is only
        for a pool that is not a context for each. Strict results need parts (design.md).
        """
        return self.strict or self.cells in (0, self.context * self.slots)

    @property
    def pool(self) -> int:
        """Cells to ask llama.cpp for: it rounds up to 256, each part for itself."""
        padded = -(-self.context // 256) * 256
        return padded * self.slots if self.parts else max(self.cells, padded)

    @property
    def sequences(self) -> int:
        """With parts, what has ended stays in slots that nobody needs; else in its own places."""
        return self.slots if self.parts else self.slots + self.cached

    def flash(self, head: int) -> bool:
        """Whether to use flash attention for heads of so many numbers (0: not known)."""
        if self.flash_attention is not None:
            return self.flash_attention
        return not 0 < head < SMALL_HEAD or self.strict or self.kv != "f16"

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
