"""The local tier beside llama-server's core and llama_cpp.server. `python tests/bench/engine.py`

On a generated model of 168M parameters in Q8_0 and Q4_0, and on stories260K (skipped where it is
not): generated tokens per CPU-second of a side's whole process tree at 1, 4, 8 and 16 streams,
prompts of some 60 tokens included; eight requests that share 400 tokens; how fast a slot is free
after a cancel and a killed worker is back. One thread each, f16 cells, greedy, medians of
interleaved rounds with their spread. The peers are dev-only packages: `pip install xllamacpp gguf`.

The last table has the bars that are required, and the ratios of the same run beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.engine.protocol import Job  # noqa: E402
from tests.bench.peers import (  # noqa: E402
    EngineAlone,
    Server,
    Setting,
    Side,
    engine_alone,
    llama_cpp_server,
    tandem,
    xllamacpp,
)
from tests.bench.random_model import write_quantized  # noqa: E402
from tests.bench.throughput import Figures, Load, measure, prompts, told  # noqa: E402

STORIES = ROOT.parent / "shared" / "models" / "stories260K-q8_0.gguf"
CONTEXT = 512
BIG = (Load(1, 48), Load(4, 48), Load(8, 32), Load(16, 32))
TINY = (Load(1, 200, 4), Load(4, 200, 2), Load(8, 200), Load(16, 200))
HTTP, ENGINE, CORE, PYTHON = "tandem http", "tandem engine", "xllamacpp", "llama_cpp.server"
MODELS = ("q8_0", "q4_0", "stories")


@dataclass(frozen=True, slots=True)
class Bar:
    """What must be seen: `values` at least (or below) `bound`."""

    what: str
    values: Sequence[float]
    bound: float
    least: bool = True

    @property
    def met(self) -> bool:
        median = statistics.median(self.values)
        return median >= self.bound if self.least else median < self.bound

    def line(self) -> str:
        sign = ">=" if self.least else "<"
        return f"{self.what:58}{told(self.values):>24}{f'{sign} {self.bound:g}':>10}  " + (
            "met" if self.met else "MISSED"
        )


async def one_model(name: str, path: Path, loads: Sequence[Load], rounds: int) -> list[Bar]:
    setting = Setting(model=path, context=CONTEXT)
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(tandem(setting))
        core = stack.enter_context(xllamacpp(setting))
        python = stack.enter_context(llama_cpp_server(setting))
        engine = await stack.enter_async_context(engine_alone(setting))
        await check(engine, (gateway, core, python))
        sides: list[Side] = [engine, gateway, core, python]
        figures = await measure(sides, loads, rounds, name)
        print(f"\n{name}: generated tokens per CPU-second, {rounds} rounds, load {load()}")
        print(figures.table(), flush=True)
        bars = throughput_bars(name, figures, [load.streams for load in loads])
        bars += await latency_bars(name, engine, rounds)
        # Once for each model: the second restart within a minute waits longer, as it should.
        back = [await restart_s(engine)]
        return [*bars, Bar(f"{name}: kill -9 to the next answer, s", back, 2, False)]


async def check(engine: EngineAlone, servers: Sequence[Server]) -> None:
    """All count the same tokens in a prompt, or the comparison would be of different work."""
    prompt = prompts(1, "check")[0]
    await engine.prepare([prompt])
    counts = {side.name: side.prompt_tokens(prompt) for side in servers}
    counts[engine.name] = engine.prompt_tokens(prompt)
    if len(set(counts.values())) > 1:
        raise SystemExit(f"prompts are tokenized differently: {counts}")


def throughput_bars(name: str, figures: Figures, levels: Sequence[int]) -> list[Bar]:
    first, last = levels[0], levels[-1]
    bars = [
        Bar(f"{name}: engine alone / xllamacpp, {n} streams", figures.ratio(ENGINE, CORE, n), 0.95)
        for n in (first, last)
    ]
    with_http = figures.ratio(HTTP, CORE, last)
    if name == "stories260K":
        against = figures.ratio(HTTP, PYTHON, last)
        bars.append(Bar(f"{name}: with HTTP+SSE / llama_cpp.server, {last} streams", against, 2.0))
    else:
        bars.append(Bar(f"{name}: with HTTP+SSE / xllamacpp, {last} streams", with_http, 0.95))
    bars.append(Bar(f"{name}: HTTP+SSE, us CPU a streamed token", figures.streamed, 100, False))
    return bars


async def latency_bars(name: str, engine: EngineAlone, rounds: int) -> list[Bar]:
    seen = {n: [await cancel_ms(engine, n) for _ in range(max(3, rounds))] for n in (1, 4)}
    return [
        Bar(f"{name}: cancel to slot free, ms, {n} streams", values, 50, False)
        for n, values in seen.items()
    ]


async def cancel_ms(engine: EngineAlone, streams: int) -> float:
    """From leaving one of some running sequences to the worker's saying that its slot is free."""
    asked = prompts(streams, f"cancel {time.monotonic()}")
    await engine.prepare(asked)
    jobs = [Job(id=0, tokens=engine.tokens(prompt), max_tokens=300) for prompt in asked]
    sequences = [await engine.engine.submit(job) for job in jobs]
    for sequence in sequences:
        await anext(sequence)
    began = time.perf_counter()
    await sequences[0].aclose()
    while (await engine.engine.stats())["running"] >= streams:
        pass
    took = (time.perf_counter() - began) * 1e3
    for sequence in sequences[1:]:
        await sequence.aclose()
    while engine.engine.busy:
        await asyncio.sleep(0.001)
    return took


async def restart_s(engine: EngineAlone) -> float:
    """From kill -9 to the next answer of another worker. faults.py has it through the gateway."""
    prompt = prompts(1, "restart")[0]
    await engine.prepare([prompt])
    pid = engine.engine.pid
    assert pid is not None
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while engine.engine.ready is None or engine.engine.pid == pid:
        await asyncio.sleep(0.002)
    await engine.run([prompt], 1)
    return time.perf_counter() - began


async def shared_prefix(name: str, path: Path, rounds: int) -> list[Bar]:
    """CPU of eight requests that begin alike for some 400 tokens, 24 generated each.

    llama_cpp.server keeps its last sequence, so it too computes a common beginning once as long as
    nobody else asks in between; `two` is two such groups by turns, four requests each.
    """
    setting = Setting(model=path, context=CONTEXT, streams=8)
    ratios: dict[str, list[float]] = {"one": [], "two": []}
    used: dict[str, list[float]] = {}
    with ExitStack() as stack:
        sides: list[Server] = [stack.enter_context(tandem(setting))]
        sides.append(stack.enter_context(llama_cpp_server(setting)))
        for number in range(rounds + 1):
            for case, groups in (("one", 1), ("two", 2)):
                heads = prompts(groups, f"{name} {case} {number}", prefix_words(sides[0]))
                tails = prompts(8, f"tails {number}", 6)
                asked = [f"{heads[i % groups]} {tail}" for i, tail in enumerate(tails)]
                spent = []
                for side in sides:
                    before = side.cpu()
                    await side.run(asked, 24)
                    spent.append(side.cpu() - before)
                    if number:
                        used.setdefault(f"{case} group, {side.name}", []).append(spent[-1])
                if number:
                    ratios[case].append(spent[1] / spent[0])
    print(f"\n{name}: CPU seconds of 8 requests, 400 tokens shared, load {load()}")
    for case, values in used.items():
        print(f"{case:34}{told(values):>24}")
    return [
        Bar(f"{name}: shared prefix, {case} group(s), CPU saved", values, 3)
        for case, values in ratios.items()
    ]


def prefix_words(side: Server) -> int:
    """How many words are some 400 tokens."""
    return 400 * 100 // side.prompt_tokens(prompts(1, "length", 100)[0])


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def about() -> str:
    packages = ("llama_cpp_python", "xllamacpp", "numpy", "uvicorn")
    told = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {told}"
    )


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(MODELS), help="some of " + ", ".join(MODELS))
    parser.add_argument("--prefix", action="store_true", help="only the shared prefix")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    print(f"{about()}; load average at the start {load()}")
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.models.split(","):
            if kind == "stories":
                if not STORIES.is_file():
                    print(f"\nSKIPPED: no {STORIES.name} here")
                    continue
                name, path, loads = "stories260K", STORIES, TINY
            else:
                name, loads = f"168M {kind.upper()}", BIG
                path = write_quantized(Path(folder), kind.upper())
            if not arguments.prefix:
                bars += await one_model(name, path, loads, rounds)
            if kind == "q8_0":
                bars += await shared_prefix(name, path, min(3, rounds))
    print(f"\n{'median (smallest-largest)':58}{'':24}{'bar':>10}")
    for bar in bars:
        print(bar.line())
    print(json.dumps({bar.what: round(statistics.median(bar.values), 3) for bar in bars}))
    return 0 if all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
