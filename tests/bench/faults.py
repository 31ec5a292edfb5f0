"""How long what we promise takes here: a client leaving, a worker killed. Prints, asserts nothing.

Keys: disconnect_ms_{local,cloud,tandem} (from the client's close to the written record, by when
the upstream's work is cancelled and the permit free), worker_restart_s (from kill -9 to the next
answer), idle_stop_s (from SIGTERM to exit).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.process import Serving, serve, workers

CHAT = "/v1/chat/completions"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs")
    runs = 5 if parser.parse_args().quick else 25
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
    print(f"{'':<24}{'n':>4}{'median':>9}{'min':>9}{'max':>9}")
    for name, values in figures.items():
        middle = statistics.median(values)
        print(f"{name:<24}{len(values):>4}{middle:>9.2f}{min(values):>9.2f}{max(values):>9.2f}")
    print(json.dumps({name: round(statistics.median(v), 3) for name, v in figures.items()}))


if __name__ == "__main__":
    main()
