"""`tandem demo`: every mode asked, on a gateway of its own and on one that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import local_engine_missing
from tests.fakes.process import Serving, clean_env

TIERS = {"local": "local", "cloud": "cloud", "tandem": "speculative", "auto": "local"}


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean_env(), timeout=110)


def test_every_mode_answers(gateway: Serving) -> None:
    """Each mode, both FIM wires and the cache answer; drafting changes no byte."""
    done = demo("--base-url", gateway.base_url, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = {row["mode"]: row for row in said["modes"]}
    assert {mode: rows[mode]["record"]["tier"] for mode in TIERS} == TIERS
    assert all(row["ok"] for row in rows.values())
    assert all(rows[mode]["text"] for mode in TIERS)
    assert rows["suffix"]["record"]["endpoint"] == "completion"
    assert rows["infill"]["record"]["endpoint"] == "infill"
    assert rows["again"]["record"]["cache"] == "hit"
    assert rows["again"]["text"] == rows["local"]["text"]
    speculation = said["speculation"]
    assert speculation["identical"] == speculation["pairs"] == 12
    assert speculation["plain_tokens_per_s"] > 0


def test_starts_a_gateway_and_stops_it(tmp_path: Path) -> None:
    """Without an address a gateway is started for the demo; the table is for people."""
    missing = local_engine_missing()
    if missing:
        pytest.skip(missing)
    done = demo("--local-only", "--model-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for word in ("first text", "tandem-demo-pair", "speculative ratio here", "byte-identical"):
        assert word in done.stdout
    address = done.stdout.partition("starting a gateway on ")[2].split()[0]
    gone = demo("--base-url", address)
    assert gone.returncode == 1
    assert "no gateway answers" in gone.stderr


def test_absent_modes_are_said() -> None:
    """A mode without an upstream is named as absent, and is not a failure."""
    from gateway.cli.demo_print import Row, table

    lines = table([Row(mode="tandem", absent="no upstream stands behind it")])
    assert lines[-1] == "tandem: not here: no upstream stands behind it"
    assert not Row(mode="tandem", absent="why").failed
