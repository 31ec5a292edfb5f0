"""What the gateway itself costs: import time, idle memory. `python tests/bench/overhead.py`

Keys (DESIGN 10): import_s, rss_idle_mb. CPU per request beside other gateways comes with the relay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.process import clean_env, serve

CLOUD_ONLY = """
upstreams:
  box: {kind: openai, base_url: "http://127.0.0.1:9/v1", model: nobody, profile: generic}
"""
IMPORT = "import time; t = time.perf_counter(); import gateway.app; print(time.perf_counter() - t)"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run each")
    runs = 1 if parser.parse_args().quick else 5
    imports = [import_seconds() for _ in range(runs)]
    memory = [idle_rss_mb() for _ in range(runs)]
    rows = [("import of the gateway, s", imports, 1.0), ("idle RSS, MiB", memory, 110.0)]
    print(f"{'':<28}{'median':>9}{'min':>9}{'max':>9}{'bound':>9}")
    for name, values, bound in rows:
        middle = statistics.median(values)
        print(f"{name:<28}{middle:>9.2f}{min(values):>9.2f}{max(values):>9.2f}{bound:>9.0f}")
    print(
        json.dumps(
            {
                "import_s": round(statistics.median(imports), 3),
                "rss_idle_mb": round(statistics.median(memory), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
