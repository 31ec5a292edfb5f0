"""Texts embedded per CPU-second, whole way over HTTP: ours beside `python -m llama_cpp.server`.

    python -m tests.bench.embeddings [--quick]

A random model (4 layers, 256 wide) whose file says mean pooling, one thread, lists of 32 short and
of 8 long texts; medians of interleaved runs. CPU is that of all processes of each server. Needs
`llama-cpp-python[server]`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes.gguf_models import write_model
from tests.fakes.process import clean_env, family, serve

CONFIG = """
server: {port: 0}
upstreams:
  m: {kind: llama_cpp, zone: machine, model: MODEL, threads: 1}
"""
TEXTS = {
    "short": [f"Sentence {i} of many." for i in range(32)],
    "long": [f"Paragraph {i}. " + "Words follow one another in a row. " * 20 for i in range(8)],
}


def cpu_s(root: int) -> float:
    ticks = 0
    for pid in {root, *family(root)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def theirs(model: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--model", str(model), "--embedding", "true", "--n_threads", "1"]
    arguments += ["--n_threads_batch", "1", "--flash_attn", "true"]
    # It cuts a text at its batch, in silence.
    arguments += ["--n_ctx", "2048", "--n_batch", "2048", "--n_ubatch", "2048"]
    command = [sys.executable, "-m", "llama_cpp.server", *arguments, "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=clean_env(), stdout=quiet, stderr=quiet)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/v1/models", trust_env=False)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("llama_cpp.server did not start") from None
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def rate(url: str, pid: int, texts: list[str], requests: int) -> float:
    """Texts per CPU-second. Nothing is answered from a cache."""
    before = cpu_s(pid)
    headers = {"cache-control": "no-store, no-cache"}
    with httpx.Client(base_url=url, timeout=300, trust_env=False, headers=headers) as client:
        for _ in range(requests):
            answer = client.post("/v1/embeddings", json={"model": "m", "input": texts})
            assert len(answer.json()["data"]) == len(texts), answer.text[:300]
    return requests * len(texts) / (cpu_s(pid) - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    runs, requests = (3, 3) if quick else (7, 10)
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "tandem.yaml"
        model = write_model(Path(folder) / "m.gguf", "llama", meta={"llama.pooling_type": 1})
        config.write_text(CONFIG.replace("MODEL", str(model)))
        with serve("-c", str(config), env=clean_env()) as ours, theirs(model) as (url, pid):
            for run in range(runs + 1):
                for kind, texts in TEXTS.items():
                    for side, at, root in (
                        ("ours", ours.base_url, ours.process.pid),
                        ("theirs", url, pid),
                    ):
                        measured = rate(at, root, texts, requests)
                        if run:  # the first warms up
                            rates.setdefault((kind, side), []).append(measured)
    told = {}
    for kind in TEXTS:
        ours_, theirs_ = (statistics.median(rates[kind, side]) for side in ("ours", "theirs"))
        told[f"embeddings_{kind}_vs_llama_cpp_server"] = round(ours_ / theirs_, 3)
        print(f"{kind:6} ours {ours_:8.1f}  theirs {theirs_:8.1f} texts per CPU-second")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
