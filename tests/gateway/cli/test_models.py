"""`tandem models`: list, inspect, quantize and compare, as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.conftest import BUNDLED, local_engine_missing
from tests.fakes.gguf_models import write_model

TARGET = BUNDLED / "tandem-demo-target-q8_0.gguf"
MANIFEST = json.loads((BUNDLED / "manifest.json").read_text())
CONTEXT = next(m["context_length"] for m in MANIFEST["models"] if m["file"] == TARGET.name)


def tandem(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["models", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_list_shows_what_files_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, quantization, context and name; a damaged file is listed with its fault."""
    write_model(tmp_path / "good.gguf", "llama")
    (tmp_path / "bad.gguf").write_bytes(b"no")
    status, out, _ = tandem(capsys, "list", "--model-dir", tmp_path)
    assert status == 0
    assert "F16        8192 tokens  good.gguf" in out
    assert "bad.gguf  (unusable: bad.gguf is not a GGUF file.)" in out
    assert f"Q8_0    {CONTEXT:>7} tokens  tandem-demo-target-q8_0.gguf" in out


def test_inspect_tells_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled target: what it is, what it can, and memory by context and KV type."""
    status, out, _ = tandem(capsys, "inspect", TARGET)
    assert status == 0
    for part in (
        "llama, 8 layers",
        "6.95 million",
        "Q8_0 (8.51 bits a weight)",
        f"{CONTEXT} tokens as trained",
        "chat template yes",
        "fill-in-middle yes",
        "4,096 bytes a token",
        "KV q8_0",
        f"{CONTEXT:>9} tokens",
    ):
        assert part in out


def test_files_go_by_the_names_that_a_configuration_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bundled:target` and a file of the model directory are found; a path goes before both."""
    monkeypatch.setenv("TANDEM_MODELS", str(tmp_path))
    shutil.copy(TARGET, tmp_path / "mine.gguf")
    for named in ("bundled:target", "mine.gguf", str(TARGET)):
        status, out, _ = tandem(capsys, "inspect", named)
        assert status == 0 and "512 tokens" in out


def test_inspect_of_odd_heads_says_why_kv_is_f16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where cells cannot be quantized there is no column for it, but a reason."""
    odd = {"llama.attention.key_length": 48, "llama.attention.value_length": 48}
    path = write_model(tmp_path / "odd.gguf", "llama", meta=odd)
    _, out, _ = tandem(capsys, "inspect", path)
    assert "KV q8_0" not in out
    assert "multiple of 32" in out


def test_inspect_refuses_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file is an error and a sentence, not a traceback."""
    (tmp_path / "bad.gguf").write_bytes(TARGET.read_bytes()[:5000])
    status, _, err = tandem(capsys, "inspect", tmp_path / "bad.gguf")
    assert status == 1
    assert err.startswith("bad.gguf ")


def test_table_of_common_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes a token and totals of common shapes, and how far quoted figures are off."""
    status, out, _ = tandem(capsys, "inspect", "--table")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["Llama-2/3-70B"][:5] == ["327,680", "1.25", "GiB", "40", "GiB"]
    assert rows["Llama-3-8B"][0] == "131,072"
    assert rows["Qwen2.5-Coder-1.5B"][0] == "28,672"
    assert "3 to 43 times too high" in out


def test_quantize_replaces_nothing_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing target stays without --force, and a source is never its own target."""
    target = tmp_path / "there.gguf"
    target.write_bytes(b"mine")
    status, _, err = tandem(capsys, "quantize", TARGET, target)
    assert (status, "--force" in err, target.read_bytes()) == (1, True, b"mine")
    status, _, err = tandem(capsys, "quantize", TARGET, TARGET, "--force")
    assert (status, "same file" in err) == (1, True)


def test_quantize_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One writes a smaller file and says what it was made from, the other what that costs."""
    missing = local_engine_missing()
    if missing:
        pytest.skip(missing)
    target = tmp_path / "q5.gguf"
    target.write_bytes(b"old")
    status, out, err = tandem(capsys, "quantize", TARGET, target, "--type", "Q5_K_M", "--force")
    assert status == 0
    assert "already quantized (Q8_0)" in err
    assert "from 7.5 MB, 8.51" in out
    status, out, _ = tandem(capsys, "compare", TARGET, target)
    assert status == 0
    assert "KL(A||B)" in out and "same token" in out
