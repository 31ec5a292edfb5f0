"""`tandem models pull` against a hub on loopback, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.models_pull import PullFailed, Remote, choose
from tests.fakes.gguf import write_vocabulary
from tests.fakes.hub import COMMIT, Hub, hub
from tests.fakes.process import clean_env

REPO = "org/model-GGUF"


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A GGUF of some length, so that a transfer can be cut in its midst."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub (the extra `hub`) is not installed")
    return write_vocabulary(tmp_path / "made.gguf", template="x" * 300_000).read_bytes()


def pull(serving: Hub | str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    endpoint = serving if isinstance(serving, str) else serving.url
    env = clean_env(HF_ENDPOINT=endpoint, HF_HOME=str(folder / "hf"), HF_HUB_OFFLINE="0")
    spec = more[0] if more and more[0].startswith("hf:") else f"hf:{REPO}:Q4_K_M"
    options = [each for each in more if each.startswith("--")]
    command = [sys.executable, "-m", "gateway", "models", "pull", spec, "--model-dir", str(folder)]
    return subprocess.run([*command, *options], capture_output=True, text=True, env=env, timeout=90)


def test_a_pulled_file_is_verified_and_pinned(content: bytes, tmp_path: Path) -> None:
    """The file arrives whole; beside it stands what it was: source, commit, size and sha256."""
    folder = tmp_path / "models"
    with hub({REPO: {"model.Q4_K_M.gguf": content, "model.Q8_0.gguf": b"no"}}) as serving:
        done = pull(serving, folder)
        assert done.returncode == 0, done.stderr
        path = folder / "model.Q4_K_M.gguf"
        assert (done.stdout.strip(), path.read_bytes()) == (str(path), content)
        pinned = json.loads((folder / "model.Q4_K_M.gguf.json").read_text())
        assert (pinned["sha256"], pinned["revision"]) == (
            hashlib.sha256(content).hexdigest(),
            COMMIT,
        )
        assert not (folder / "model.Q8_0.gguf").exists()


def test_an_interrupted_pull_goes_on_where_it_was(content: bytes, tmp_path: Path) -> None:
    """After a cut the rest is asked for by range, and the whole has the right sha256."""
    content += bytes(12_000_000)  # the library writes, and so keeps, 10 MB at a time
    with hub({REPO: {"model.Q4_K_M.gguf": content}}) as serving:
        serving.cut = 11_000_000
        first = pull(serving, tmp_path)
        if first.returncode != 0:  # the library may have gone on by itself
            assert pull(serving, tmp_path).returncode == 0
        assert serving.ranges
        assert (tmp_path / "model.Q4_K_M.gguf").read_bytes() == content


def test_bytes_that_are_not_the_hubs_are_removed(content: bytes, tmp_path: Path) -> None:
    """A file whose sha256 is not the announced one never gets to the model folder."""
    with hub({REPO: {"model.Q4_K_M.gguf": content}}) as serving:
        serving.lie = True
        done = pull(serving, tmp_path)
        assert done.returncode == 1
        assert "arrived damaged" in done.stderr
        assert not list(tmp_path.glob("*.Q4_K_M.gguf*"))


def test_a_pinned_file_is_not_replaced_in_silence(content: bytes, tmp_path: Path) -> None:
    """If the hub has another file under the pinned name, only --update takes it."""
    with hub({REPO: {"model.Q4_K_M.gguf": content}}) as serving:
        assert pull(serving, tmp_path).returncode == 0
        serving.files[REPO]["model.Q4_K_M.gguf"] = content + b"\0"
        refused = pull(serving, tmp_path)
        assert (refused.returncode, "pinned" in refused.stderr) == (1, True)
        assert pull(serving, tmp_path, "--update").returncode == 0
        assert (tmp_path / "model.Q4_K_M.gguf").read_bytes() == content + b"\0"


def test_offline_says_what_to_do(content: bytes, tmp_path: Path) -> None:
    """Without a hub: one sentence that names the address, the mirror variable and the folder."""
    done = pull("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in ("http://127.0.0.1:9", "HF_ENDPOINT", str(tmp_path)):
        assert part in done.stderr


def test_an_unknown_repository_or_quantization_is_named(content: bytes, tmp_path: Path) -> None:
    """What is not there is said, with what is there instead."""
    with hub({REPO: {"model.Q8_0.gguf": content}}) as serving:
        assert "no such repository" in pull(serving, tmp_path, "hf:org/other:Q8_0").stderr
        assert "There are: model.Q8_0.gguf" in pull(serving, tmp_path).stderr


def remote(name: str) -> Remote:
    return Remote(name=name, size=1, sha256="")


def test_a_quantization_is_a_whole_word() -> None:
    """Q4_K does not choose Q4_K_M; the parts of a split come together and in order."""
    files = [remote(f"m-Q4_K_M-0000{i}-of-00002.gguf") for i in (2, 1)] + [remote("m-Q4_K.gguf")]
    assert [f.name for f in choose(files, "q4_k", "r")] == ["m-Q4_K.gguf"]
    assert [f.name[-19:] for f in choose(files, "Q4_K_M", "r")] == [
        "-00001-of-00002.gguf"[-19:],
        "-00002-of-00002.gguf"[-19:],
    ]


def test_two_models_of_one_quantization_are_not_guessed_between() -> None:
    """If a repository has two models with that quantization, nothing is fetched."""
    with pytest.raises(PullFailed, match="2 models"):
        choose([remote("a-Q8_0.gguf"), remote("b-Q8_0.gguf")], "Q8_0", "r")
