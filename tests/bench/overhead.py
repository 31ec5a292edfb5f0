"""What the gateway costs, beside other gateways. `python tests/bench/overhead.py [--quick]`

Import time and idle memory; then CPU per request and per streamed chunk, added time to the first
token and memory of Tandem (key check, filters, rules, cache miss, usage asked for, record, metrics
on), LiteLLM, Portkey, vllm-router and nginx in front of one stub: gateway on core 0, stub and load
on core 1, one worker each, plain HTTP on loopback. tests/bench/relay/peers.py says where peers are
expected; one that is not there is left out. Ratios are ours over theirs, medians of three rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.relay.measure import Failed, measure
from tests.bench.relay.peers import PEERS_BY_NAME, Absent, Peer
from tests.bench.relay.processes import stub
from tests.bench.relay.report import Figures, medians, ratio, table
from tests.fakes.process import clean_env, serve

CLOUD_ONLY = """
upstreams:
  box: {kind: openai, base_url: "http://127.0.0.1:9/v1", model: nobody, profile: generic}
"""
IMPORT = "import time; t = time.perf_counter(); import gateway.app; print(time.perf_counter() - t)"

COLUMNS = {
    "json": "JSON, us",
    "json4k": "JSON 4 KB, us",
    "burst": "burst chunk, us",
    "paced": "paced chunk, us",
    "ttft_p50_ms": "TTFT p50 c64, ms",
    "ttft_p99_ms": "TTFT p99 c64, ms",
    "rss_idle": "RSS idle, MiB",
    "rss_after": "RSS after, MiB",
}
# (key, what is measured, the peer, what must be met, what we aim for)
BARS = (
    ("json_vs_vllm_router", "json", "vllm-router", 1.3, 1.0),
    ("json4k_vs_vllm_router", "json4k", "vllm-router", 1.3, 1.0),
    ("json_vs_litellm", "json", "litellm", 1 / 30, 1 / 50),
    ("json_vs_portkey", "json", "portkey", 1 / 5, 1 / 8),
    ("json_vs_nginx", "json", "nginx", 6.0, 5.0),
    ("paced_chunk_vs_vllm_router", "paced", "vllm-router", 1.3, 1.0),
    ("burst_chunk_vs_vllm_router", "burst", "vllm-router", 1.0, 1.0),
)
DIRECT = "direct"


def import_seconds() -> float:
    """Wall seconds of importing the whole gateway in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, env=clean_env()
    )
    return float(done.stdout)


def idle_rss_mb() -> float:
    """Resident memory of a gateway without a local engine, a second after it became ready."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tandem.yaml"
        path.write_text(CLOUD_ONLY)
        with serve("-c", str(path)) as running:
            time.sleep(1)
            status = Path(f"/proc/{running.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def rounds_of(names: list[str], rounds: int, share: float) -> dict[str, list[Figures]]:
    """Figures of each peer, round by round, the peers one after the other in each."""
    measured: dict[str, list[Figures]] = defaultdict(list)
    os.sched_setaffinity(0, {1})
    with stub(core=1) as port:
        for number in range(rounds):
            measured[DIRECT].append(_direct(port, share))
            for name in list(names):
                try:
                    with PEERS_BY_NAME[name](port, 0) as peer:
                        measured[name].append(measure(peer, share=share))
                except (Absent, Failed) as error:
                    print(f"round {number + 1}: {name} left out: {error}")
                    continue
                print(f"round {number + 1}: {name} done", file=sys.stderr)
    return measured


def _direct(port: int, share: float) -> Figures:
    """The stub without a gateway, whose time to the first token is not ours to answer for."""

    class Stub:
        pid = os.getpid()

    found = measure(Peer(name=DIRECT, port=port, process=Stub()), share=share)  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if name.startswith("ttft")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, fewer requests")
    parser.add_argument("--peers", default=",".join(PEERS_BY_NAME), help="which gateways")
    arguments = parser.parse_args()
    runs = 1 if arguments.quick else 3
    cores = os.sched_getaffinity(0)
    imports = [import_seconds() for _ in range(runs)]
    memory = [idle_rss_mb() for _ in range(runs)]
    rows = [("import of the gateway, s", imports, 1.0), ("idle RSS, MiB", memory, 110.0)]
    print(f"{'':<28}{'median':>9}{'min':>9}{'max':>9}{'bound':>9}")
    for name, values, bound in rows:
        middle = statistics.median(values)
        print(f"{name:<28}{middle:>9.2f}{min(values):>9.2f}{max(values):>9.2f}{bound:>9.0f}")
    keys: dict[str, float] = {
        "import_s": round(statistics.median(imports), 3),
        "rss_idle_mb": round(statistics.median(memory), 1),
    }
    if len(cores) < 2:
        print("one core only: the gateways are not measured beside each other")
    else:
        measured = rounds_of(arguments.peers.split(","), runs, 0.4 if arguments.quick else 1.0)
        print(f"\nCPU per request and per chunk, median (smallest-largest) of {runs}\n")
        print(table(measured, COLUMNS))
        print(f"\n{'ours over theirs':<28}{'measured':>9}{'pass':>9}{'aim':>9}")
        for key, what, peer, bar, aim in BARS:
            found = ratio(measured, "tandem", peer, what)
            if found is None:
                print(f"{key:<28}{'-':>9}{bar:>9.3f}{aim:>9.3f}  {peer} was not measured")
                continue
            keys[key] = found
            verdict = "aim" if found <= aim else "pass" if found <= bar else "FAILS"
            print(f"{key:<28}{found:>9.3f}{bar:>9.3f}{aim:>9.3f}  {verdict}")
        ours, direct = medians(measured["tandem"]), medians(measured[DIRECT])
        if "ttft_p99_ms" in ours:
            for at in ("p50", "p99"):
                added = ours[f"ttft_{at}_ms"] - direct[f"ttft_{at}_ms"]
                keys[f"ttft_added_{at}_ms_c64"] = round(added, 2)
            print(f"{'added TTFT p99 c64, ms':<28}{keys['ttft_added_p99_ms_c64']:>9.2f}{15:>9}")
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
