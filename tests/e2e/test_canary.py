"""Private requests in a network namespace of their own: the kernel counts what they open."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSIDE = ["unshare", "--map-root-user", "--net"]


def test_no_canary_leaves_the_machine() -> None:
    """Whatever keeps a request here, it is answered inside or refused with local_unavailable; the
    kernel has seen no connection and no datagram but ours and those to the local upstream. After
    that, a public request does arrive at the very same cloud."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) to make a network namespace with")
    if subprocess.run([*INSIDE, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    done = subprocess.run(
        [*INSIDE, sys.executable, "-m", "tests.fakes.canary"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (seen["leaked"], seen["datagrams"]) == (0, 0)
    assert seen["opened"] == seen["expected"]
    assert seen["arrived"] >= 1
    for answer in seen["answers"]:
        if answer["model"] in ("cloud", "faraway", "race", "going-on"):
            assert (answer["status"], answer["unavailable"]) == (503, True)
    assert sum(answer["told"] and answer["status"] == 200 for answer in seen["answers"]) > 5
