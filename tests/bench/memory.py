"""Memory estimates beside what llama.cpp logs, for every architecture of tests/fakes, and RSS."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backends.engine.gguf import read
from backends.engine.memory import memory
from tests.fakes.buffers import CONTEXTS, MIB, logged
from tests.fakes.gguf_models import MODELS, write_model


def main() -> int:
    if importlib.util.find_spec("llama_cpp") is None:
        print("memory: llama-cpp-python is not installed")
        return 0
    print("MiB, estimated / logged by llama.cpp. RSS is of a Python without our worker.")
    print(f"{'model':10} {'context':20}{'KV':>15}{'states':>15}{'compute':>15}{'all/RSS':>12}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            gguf = read(write_model(Path(folder) / f"{name}.gguf", name))
            for label, context in CONTEXTS.items():
                ours, theirs = memory(gguf, context), logged(gguf.paths[0], context)
                cells = []
                for key, size in (
                    ("kv", ours.kv),
                    ("recurrent", ours.recurrent),
                    ("compute", ours.compute),
                ):
                    cells.append(f"{size / MIB:.2f} / {theirs[key]:.2f}".rjust(15))
                    if theirs[key] > 1:  # the log rounds to hundredths
                        worst = max(worst, abs(size / MIB / theirs[key] - 1))
                total = f"{ours.total / MIB:.0f}/{theirs['rss']:.0f}".rjust(12)
                print(f"{name:10} {label:20}{''.join(cells)}{total}")
    print(f"largest difference of a buffer beyond 1 MiB: {100 * worst:.1f} % (promised: 5 %)")
    return 0 if worst <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
