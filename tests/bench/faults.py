"""How long what we promise takes here, row by row of the fault table. Prints, asserts nothing.

Remote rows, against a misbehaving upstream: row01_fallback_ms (a refused connection, beyond an
answer without one), row20_fail_fast_ms (all upstreams throttle; its worst is the promise),
row29_disconnect_ms (from the client's close to the upstream's socket closed), row06_overshoot_ms
and row08_overshoot_ms (how much later than its limit a timer ends a request). Local rows:
disconnect_ms_{local,cloud,tandem} (from the client's close to the written record),
row26_error_event_ms (from kill -9 to the error event), worker_restart_s (from kill -9 to the next
answer), idle_stop_s (from SIGTERM to exit). `--remote` leaves the local ones out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.faults import fault, ok
from tests.fakes.fronting import Front, fronting, misbehaving
from tests.fakes.ports import unused_port
from tests.fakes.process import Serving, serve, workers
from tests.fakes.upstream import FakeUpstream

CHAT = "/v1/chat/completions"
ONE_WORKER = """
upstreams:
  local: {kind: llama_cpp, zone: machine, model: "bundled:draft", context: 16384, slots: 1}
"""
LONG = {
    "messages": [{"role": "user", "content": "Write a long program."}],
    "max_tokens": 400,
    "stream": True,
    "temperature": 1.5,
}


def disconnect_ms(client: httpx.Client, model: str) -> float | None:
    """None if the answer ended before we could leave."""
    with client.stream("POST", CHAT, json={**LONG, "model": model}) as answer:
        record = f"/v1/requests/{answer.headers['x-request-id']}"
        next(answer.iter_bytes())
    left = time.perf_counter()
    while True:
        found = client.get(record)
        if found.status_code == 200:
            ms = (time.perf_counter() - left) * 1e3
            return ms if found.json()["outcome"] == "cancelled" else None


def worker_restart_s(serving: Serving, client: httpx.Client) -> float:
    body = {**LONG, "model": "local", "stream": False, "max_tokens": 1}
    client.post(CHAT, json=body)
    killed = time.perf_counter()
    os.kill(workers(serving.process.pid, model="draft")[0], signal.SIGKILL)
    # The kill is noticed a moment later; an answer in between would be the old worker's.
    while not workers(serving.process.pid, model="draft"):
        time.sleep(0.005)
    while client.post(CHAT, json=body).status_code != 200:
        time.sleep(0.01)
    return time.perf_counter() - killed


def error_event_ms(serving: Serving, client: httpx.Client) -> float:
    """From the worker's death to the error that ends its stream."""
    short = {**LONG, "model": "local", "stream": False, "max_tokens": 1}
    while client.post(CHAT, json=short).status_code != 200:
        time.sleep(0.01)
    body = {**LONG, "model": "local", "max_tokens": 16000, "ignore_eos": True}
    with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        killed = time.perf_counter()
        (worker,) = workers(serving.process.pid)
        os.kill(worker, signal.SIGKILL)
        if not any('"error"' in line for line in lines):
            raise RuntimeError("the stream ended without an error")
        return (time.perf_counter() - killed) * 1e3


async def timed_ms(front: Front, model: str = "auto") -> float:
    began = time.perf_counter()
    await front.ask(model)
    return (time.perf_counter() - began) * 1e3


async def fallback_ms(runs: int) -> list[float]:
    """A gateway of its own for each run, since after five refusals the breaker knows."""
    added = []
    for _ in range(runs):
        async with FakeUpstream(ok) as good:
            urls = {"bad": f"http://127.0.0.1:{unused_port()}/v1", "good": good.base_url}
            async with fronting(urls) as front:
                for _ in range(5):
                    plain = await timed_ms(front, "good")
                added.append(await timed_ms(front) - plain)
    return added


async def fail_fast_ms(runs: int) -> list[float]:
    throttled = fault("throttled:groq-requests")
    async with (
        FakeUpstream(throttled) as one,
        FakeUpstream(throttled) as other,
        fronting({"one": one.base_url, "other": other.base_url}) as front,
    ):
        await timed_ms(front)
        return [await timed_ms(front) for _ in range(20 * runs)]


async def upstream_disconnect_ms(runs: int) -> list[float]:
    seen = []
    async with misbehaving(fault("talk")) as (front, bad, _):
        for _ in range(runs):
            bad.hung_up.clear()
            body = {"model": "auto", "messages": LONG["messages"], "stream": True}
            async with front.http.stream("POST", CHAT, json=body) as answer:
                async for line in answer.aiter_lines():
                    if "word" in line:
                        break
                left = time.perf_counter()
            await bad.hung_up.wait()
            seen.append((time.perf_counter() - left) * 1e3)
    return seen


async def overshoot_ms(plan: str, runs: int) -> list[float]:
    limit = 0.2
    times = {"connect": 5, "first_content": limit, "idle": limit, "document": limit}
    seen = []
    for _ in range(runs):
        async with misbehaving(fault(plan), timeouts=times) as (front, _, _good):
            await front.ask("good")
            seen.append(await timed_ms(front, "bad") - limit * 1e3)
    return seen


def remote(runs: int) -> dict[str, list[float]]:
    return {
        "row01_fallback_ms": asyncio.run(fallback_ms(runs)),
        "row20_fail_fast_ms": asyncio.run(fail_fast_ms(runs)),
        "row29_disconnect_ms": asyncio.run(upstream_disconnect_ms(runs)),
        "row06_overshoot_ms": asyncio.run(overshoot_ms("hang-headers", runs)),
        "row08_overshoot_ms": asyncio.run(overshoot_ms("hang-midway", runs)),
    }


def local(runs: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    with serve() as serving, serving.client() as client:
        for model in ("local", "cloud", "tandem"):
            seen = [disconnect_ms(client, model) for _ in range(runs)]
            figures[f"disconnect_ms_{model}"] = [ms for ms in seen if ms is not None]
        # A third within a minute would be a quarantine of a minute, as it should.
        figures["worker_restart_s"] = [worker_restart_s(serving, client) for _ in range(2)]
        began = time.perf_counter()
        client.close()
        serving.stop()
        figures["idle_stop_s"] = [time.perf_counter() - began]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tandem.yaml"
        path.write_text(ONE_WORKER)
        with serve("-c", str(path)) as serving, serving.client() as client:
            seen = [error_event_ms(serving, client) for _ in range(2)]
            figures["row26_error_event_ms"] = seen
    return figures


def high(values: list[float]) -> float:
    """The 99th percentile; of fewer than a hundred the worst."""
    return sorted(values)[int(0.99 * (len(values) - 1) + 0.999)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--remote", action="store_true", help="without the local engine")
    options = parser.parse_args()
    runs = 5 if options.quick else 25
    figures = remote(runs)
    if not options.remote:
        figures |= local(runs)
    print(f"{'':<24}{'n':>5}{'median':>9}{'min':>9}{'p99':>9}{'max':>9}")
    for name, values in figures.items():
        row = [statistics.median(values), min(values), high(values), max(values)]
        print(f"{name:<24}{len(values):>5}" + "".join(f"{each:>9.2f}" for each in row))
    print(json.dumps({name: round(statistics.median(v), 3) for name, v in figures.items()}))


if __name__ == "__main__":
    main()
