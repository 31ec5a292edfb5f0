"""`tandem bench engine`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.conftest import local_engine_missing

MISSING = local_engine_missing()


def tandem(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["bench", "engine", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.skipif(bool(MISSING), reason=str(MISSING))
def test_it_measures_the_configured_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All streams are answered in full, reuse and cancel are there, and the model is the file's."""
    config = tmp_path / "tandem.yaml"
    config.write_text(
        "upstreams:\n"
        "  other: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m, profile: generic}\n"
        "  small: {kind: llama_cpp, model: 'bundled:draft', threads: 1}\n"
    )
    status, out, _ = tandem(capsys, "-c", config, "--streams", "1,3", "--tokens", 8, "--json")
    assert status == 0
    report = json.loads(out)
    assert report["model"].endswith("tandem-demo-draft-q8_0.gguf")
    assert {n: cost["tokens"] for n, cost in report["generating"].items()} == {"1": 8, "3": 24}
    assert all(cost["wall_s"] > 0 for cost in report["generating"].values())
    assert report["reading"]["tokens"] == report["reused"]["tokens"] == 400
    assert report["cancel_s"] > 0


@pytest.mark.skipif(bool(MISSING), reason=str(MISSING))
def test_the_table_has_a_line_for_each_number_of_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without arguments it is the bundled target, and people get a table."""
    status, out, _ = tandem(capsys, "--model-dir", tmp_path, "--streams", "2", "--tokens", 4)
    assert status == 0
    assert "tandem-demo-target-q8_0.gguf" in out
    assert "reading a prompt of 400 tokens" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith(tuple("0123456789"))] == [
        "2"
    ]


def test_a_model_that_is_not_there_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, no such upstream, no local upstream: exit status 1 and what is wrong."""
    status, _, err = tandem(capsys, tmp_path / "none.gguf")
    assert (status, "none.gguf" in err) == (1, True)
    config = tmp_path / "tandem.yaml"
    config.write_text("upstreams:\n  small: {kind: llama_cpp, model: 'bundled:draft'}\n")
    status, _, err = tandem(capsys, "-c", config, "--upstream", "big")
    assert status == 1
    assert "there are: small" in err
