"""One gateway, measured: CPU of requests and chunks, time to the first token, memory."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from tests.bench.relay.load import Seen, drive, request
from tests.bench.relay.peers import Peer
from tests.bench.relay.processes import cpu_s, rss_mb
from tests.bench.relay.stub import CHUNKS

EVENTS = CHUNKS + 1
CONNECTIONS = 16
STREAMS = 64
HOST = "127.0.0.1"

# Requests for each measurement, of a gateway as fast as ours. CPU time is counted in hundredths of
# a second, so this is what makes a figure good to some per cent.
COUNTS = {"json": 4000, "json4k": 4000, "burst": 800, "paced": 320, "ttft": 256}
SLOW = {"litellm": 40, "portkey": 8}
"""Peers that take so many times longer get so many times fewer requests."""


def chat(size: int, *, word: str = "say", stream: bool = False) -> bytes:
    """A chat request of about so many bytes."""
    body = {"model": "auto", "messages": [{"role": "user", "content": word}]}
    if stream:
        body["stream"] = True
    missing = size - len(json.dumps(body)) - 1
    body["messages"] = [{"role": "user", "content": f"{word} {'x' * max(0, missing)}"}]
    return json.dumps(body, separators=(",", ":")).encode()


class Failed(Exception):
    """More than a hundredth of the requests did not come back as they should."""


def measure(peer: Peer, *, share: float = 1.0) -> dict[str, float]:
    """All figures of one gateway; `share` of the usual number of requests. Raises Failed."""
    figures = {"rss_idle": rss_mb(peer.process.pid)}
    less = share / SLOW.get(peer.name, 1)

    def run(body: bytes, connections: int, count: int, stagger_s: float = 0.0) -> Seen:
        asked = request(f"{HOST}:{peer.port}", peer.path, body, **peer.headers)
        count = max(connections, int(count * less))
        seen = uvloop.run(
            drive(HOST, peer.port, asked, connections=connections, count=count, stagger_s=stagger_s)
        )
        if seen.failed > count / 100:
            raise Failed(f"{peer.name}: {seen.failed} of {count} requests failed")
        return seen

    @contextmanager
    def cpu(name: str, per: int) -> Iterator[list[Seen]]:
        seen: list[Seen] = []
        before = cpu_s(peer.process.pid)
        yield seen
        figures[name] = (cpu_s(peer.process.pid) - before) / (seen[0].done * per) * 1e6

    plain, large = chat(160), chat(4096)
    run(plain, CONNECTIONS, 400)
    with cpu("json", 1) as seen:
        seen.append(run(plain, CONNECTIONS, COUNTS["json"]))
    with cpu("json4k", 1) as seen:
        seen.append(run(large, CONNECTIONS, COUNTS["json4k"]))
    with cpu("burst", EVENTS) as seen:
        seen.append(run(chat(160, word="burst", stream=True), CONNECTIONS, COUNTS["burst"]))
    paced = chat(160, word="paced", stream=True)
    with cpu("paced", EVENTS) as seen:
        seen.append(run(paced, CONNECTIONS, COUNTS["paced"]))
    # Spread over a stream's length, as users come; all 64 at once would measure a queue.
    ttft = sorted(run(paced, STREAMS, COUNTS["ttft"], stagger_s=0.32).ttft_s)
    figures["ttft_p50_ms"] = statistics.median(ttft) * 1e3
    figures["ttft_p99_ms"] = ttft[int(len(ttft) * 0.99)] * 1e3
    time.sleep(0.2)
    figures["rss_after"] = rss_mb(peer.process.pid)
    return figures
