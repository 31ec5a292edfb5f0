"""What reusing a shared prompt saves: 8 requests, 400 + 8 tokens, 24 generated each.

Key shared_prefix_cpu_saving: CPU seconds of the worker without reuse over those with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.engine.client import Engine  # noqa: E402 (the path above)
from backends.engine.protocol import Job  # noqa: E402 (the path above)
from backends.engine.settings import EngineSettings  # noqa: E402 (the path above)

MODEL = ROOT / "backends" / "engine" / "bundled" / "tandem-demo-target-q8_0.gguf"
RUNS = 3


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def one(cached: int) -> float:
    engine = Engine(EngineSettings(model=str(MODEL), context=512, slots=8, cached=cached))
    await engine.start()
    try:
        assert engine.pid is not None, engine.detail
        before = cpu_seconds(engine.pid)
        head = tuple((7 * j * j + 3 * j) % 400 + 8 for j in range(400))

        async def ask(number: int) -> None:
            tail = tuple(number * 9 + j + 10 for j in range(8))
            sequence = await engine.submit(Job(id=0, tokens=head + tail, max_tokens=24))
            async for _ in sequence:
                pass

        await asyncio.gather(*(ask(number) for number in range(8)))
        return cpu_seconds(engine.pid) - before
    finally:
        await engine.aclose()


async def main() -> None:
    pairs = [(await one(0), await one(16)) for _ in range(RUNS)]
    plain, reused = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"CPU s without reuse {plain:.2f}, with {reused:.2f}; {RUNS} interleaved runs: {pairs}")
    print(json.dumps({"shared_prefix_cpu_saving": round(plain / reused, 2)}))


asyncio.run(main())
