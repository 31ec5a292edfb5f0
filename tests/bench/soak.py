"""Mixed traffic with faults for minutes: is anything left behind? Prints, asserts nothing.

    python tests/bench/soak.py --minutes 10

A running gateway stands before one upstream that misbehaves as each request asks. Every second its
resident memory, descriptors and in-flight requests are noted; at the end, after everybody has left,
once more. The slope of memory is a least-squares line over the second half, since the first fills
caches, pools and allocator arenas. Keys: rss_slope_mib_per_hour, rss_mib, fds, inflight_at_rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.misbehaving import by_request
from tests.fakes.process import Serving, serve
from tests.fakes.upstream import FakeUpstream

PLANS = {
    "ok": 60,
    "hang-headers": 1,
    "hang-midway": 1,
    "reset-midway": 2,
    "reset-at:120": 1,
    "cut-chunk": 2,
    "silent-end": 2,
    "malformed": 2,
    "split": 2,
    "endless-line": 1,
    "gzip-bomb": 1,
    "huge-body": 1,
    "html": 2,
    "json-error": 2,
    "status:500": 2,
    "status:400": 2,
    "throttled:ms": 1,
    "comments-midway": 1,
    "drip:0.002": 2,
    "talk": 3,
}
"""Fault → how often of a hundred or so. Each is an upstream of its own, so that the breaker of one
does not hide another."""
LEAVES = 0.1
"""The share of clients that hang up midway."""


def config(base_url: str, cache: str) -> str:
    times = {"connect": 1, "first_content": 1, "idle": 1, "document": 2}
    shared = {"kind": "openai", "profile": "openai", "base_url": base_url, "timeouts": times}
    caps = {"max_body_bytes": 1_000_000, "max_event_bytes": 100_000}
    upstreams = {name(plan): {**shared, **caps, "model": plan} for plan in PLANS}
    both = {plan: list(dict.fromkeys([name(plan), "ok"])) for plan in PLANS}
    aliases = {f"{name(plan)}-or-ok": {"candidates": both[plan]} for plan in PLANS}
    kept = {"exact": "off" if cache == "off" else {"memory": cache}}
    return json.dumps({"upstreams": upstreams, "models": aliases, "cache": kept})


def name(plan: str) -> str:
    return plan.replace(":", "-").replace(".", "-")


@dataclass(slots=True)
class Counts:
    """What came of the requests, and the samples taken meanwhile."""

    ends: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    """(seconds, RSS in MiB, descriptors)"""


async def client(http: httpx.AsyncClient, until: float, counts: Counts, seed: int) -> None:
    chance = random.Random(seed)
    plans, weights = list(PLANS), list(PLANS.values())
    while time.monotonic() < until:
        plan = chance.choices(plans, weights)[0]
        body = {
            "model": name(plan) + chance.choice(["", "-or-ok"]),
            "messages": [{"role": "user", "content": "x" * chance.randrange(1, 4000)}],
            "stream": chance.random() < 0.7,
            "temperature": chance.choice([0, 1]),
        }
        try:
            leaves = plan == "talk" or chance.random() < LEAVES
            counts.ends[await one(http, body, leaves=leaves)] += 1
        except httpx.HTTPError as error:
            counts.ends[type(error).__name__] += 1


async def one(http: httpx.AsyncClient, body: dict[str, object], *, leaves: bool) -> str:
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        tail = b""
        async for part in answer.aiter_bytes():
            if leaves:
                return "left"
            tail = (tail + part)[-4096:]
    if answer.status_code != 200:
        return str(answer.status_code)
    return "error event" if b'"error"' in tail else "ok"


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) / 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares: units of the second a unit of the first."""
    count = len(points)
    x, y = (sum(each) / count for each in zip(*points, strict=True))
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else 0.0


async def in_flight(http: httpx.AsyncClient) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith("tandem_inflight{"))


async def soak(serving: Serving, minutes: float, clients: int, counts: Counts) -> dict[str, float]:
    pid, began = serving.process.pid, time.monotonic()
    until = began + 60 * minutes
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=serving.base_url, timeout=30, trust_env=False, limits=limits
    ) as http:
        before = descriptors(pid)
        asking = [asyncio.create_task(client(http, until, counts, n)) for n in range(clients)]
        while time.monotonic() < until:
            await asyncio.sleep(1)
            at = time.monotonic() - began
            counts.samples.append((at, resident_mib(pid), descriptors(pid)))
            if len(counts.samples) % 30 == 0:
                print(f"{at:6.0f} s {counts.samples[-1][1]:8.1f} MiB {counts.samples[-1][2]:5} fds")
        await asyncio.gather(*asking)
    async with httpx.AsyncClient(base_url=serving.base_url, trust_env=False) as http:
        for _ in range(100):
            if not (left := await in_flight(http)):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(35)  # connections kept alive to upstreams go after 30 s
        at_rest = descriptors(pid)
    later = [(at / 3600, rss) for at, rss, _ in counts.samples[len(counts.samples) // 2 :]]
    return {
        "requests": counts.ends.total(),
        "rss_mib_after_start": counts.samples[0][1],
        "rss_mib": counts.samples[-1][1],
        "rss_slope_mib_per_hour": slope(later),
        "fds_before": before,
        "fds_most": max(fds for _, _, fds in counts.samples),
        "fds_at_rest": at_rest,
        "inflight_at_rest": left,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--cache", default="off", help="its size; while it fills, memory grows")
    options = parser.parse_args()
    counts = Counts()
    async with FakeUpstream(by_request()) as upstream:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tandem.yaml"
            path.write_text(config(upstream.base_url, options.cache))
            starting = serve("-c", str(path))
            serving = await asyncio.to_thread(starting.__enter__)
            try:
                figures = await soak(serving, options.minutes, options.clients, counts)
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)
    for end, count in counts.ends.most_common():
        print(f"{end:<24}{count:>8}")
    for key, value in figures.items():
        print(f"{key:<24}{value:>12.1f}")
    print(json.dumps({key: round(value, 2) for key, value in figures.items()}))


if __name__ == "__main__":
    asyncio.run(main())
