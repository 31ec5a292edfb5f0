"""What a scrape of /metrics costs with 50 upstreams. `python tests/bench/scrape.py [--quick]`

It is rendered in a thread: what is measured is how late the event loop wakes meanwhile. Bounds:
3,000 lines, 25 ms (15,000 lines held the loop up for 125 ms).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.metrics import Metrics
from gateway.vitals import Vitals
from tests.gateway.test_metrics import record

UPSTREAMS = [f"upstream-{at:02}" for at in range(50)]
LINES, STALL_MS = 3000, 25.0


def busy() -> Metrics:
    """Metrics that have seen every upstream, model, tier and outcome there can be."""
    vitals = Vitals(
        in_flight=dict.fromkeys(UPSTREAMS, 1), upstream_up=dict.fromkeys(UPSTREAMS, True)
    )
    # A clock that runs away, so that no scrape is answered with the last one's bytes.
    made = Metrics(
        models=UPSTREAMS,
        upstreams=UPSTREAMS,
        vitals=lambda: vitals,
        clock=lambda: time.time() * 1e6,
    )
    for outcome in ("ok", "cancelled", "timeout", "upstream_error"):
        for name in UPSTREAMS:
            for stream in (True, False):
                made.observe(record(model=name, upstream=name, outcome=outcome, stream=stream))
    return made


async def stall_ms(metrics: Metrics | None, seconds: float) -> list[float]:
    """How late a timer of 1 ms came, sorted, with a scrape always going on, or with none."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    late: list[float] = []

    async def scrape() -> None:
        while metrics is not None and loop.time() < until:
            await asyncio.to_thread(metrics.render)

    scraping = asyncio.create_task(scrape())
    while loop.time() < until:
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        late.append((loop.time() - due) * 1e3)
    await scraping
    return sorted(late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run")
    runs = 1 if parser.parse_args().quick else 3
    metrics = busy()
    lines = len(metrics.render()[0].splitlines())
    with_scrape = [uvloop.run(stall_ms(metrics, 2.0)) for _ in range(runs)]
    without = [uvloop.run(stall_ms(None, 2.0)) for _ in range(runs)]

    def at(share: float, measured: list[list[float]]) -> float:
        return statistics.median(each[int((len(each) - 1) * share)] for each in measured)

    print(f"{'':<32}{'p50':>8}{'p99':>8}{'worst':>8}")
    for name, measured in (
        ("loop late, scraped, ms", with_scrape),
        ("loop late, not scraped, ms", without),
    ):
        print(f"{name:<32}" + "".join(f"{at(share, measured):>8.2f}" for share in (0.5, 0.99, 1.0)))
    print(f"lines: {lines} (bound {LINES}); added at p99 (bound {STALL_MS:.0f} ms): ", end="")
    added = at(0.99, with_scrape) - at(0.99, without)
    print(f"{added:.2f} ms")
    print(json.dumps({"scrape_lines": lines, "scrape_stall_ms": round(added, 2)}))


if __name__ == "__main__":
    main()
