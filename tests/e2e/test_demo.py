"""`tandem demo`: every mode asked, on a gateway of its own and on one that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import local_engine_missing
from tests.fakes.process import Serving, clean_env, serve

TIERS = {"local": "local", "cloud": "cloud", "tandem": "speculative", "auto": "local"}


CLOUD_ONLY = """
upstreams:
  theirs: {{kind: openai, profile: generic, base_url: "{base_url}/v1", model: tandem-demo-target}}
"""


def demo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "demo", *arguments]
    env = clean_env() if env is None else env
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=110)


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


def test_a_gateway_without_local_models(gateway: Serving, tmp_path: Path) -> None:
    """With a cloud alone, behind a key, the other modes are named as absent and nothing fails."""
    config = tmp_path / "tandem.yaml"
    config.write_text(CLOUD_ONLY.format(base_url=gateway.base_url))
    keyed = clean_env(TANDEM_API_KEY="tdm-for-this-test")
    with serve("-c", str(config), env=keyed) as running:
        done = demo("--base-url", running.base_url, env=keyed)
        refused = demo("--base-url", running.base_url)
    assert done.returncode == 0, done.stdout + done.stderr
    for mode in ("local", "tandem"):
        assert f"{mode}: not here: no upstream stands behind it" in done.stdout
    assert "speculative ratio: none" in done.stdout
    assert "prompts may leave this machine: theirs\n" in done.stdout
    assert refused.returncode == 1
    assert "401" in refused.stderr
