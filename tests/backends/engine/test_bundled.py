"""The bundled pair: the files are the ones the manifest and the card describe, and they fit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BUNDLED = Path(__file__).resolve().parents[3] / "backends" / "engine" / "bundled"
MANIFEST: dict[str, Any] = json.loads((BUNDLED / "manifest.json").read_text(encoding="utf-8"))

# In a process of its own: llama_cpp is never loaded into the one that runs the tests.
FACTS = """
import json, sys
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
vocab = llama_cpp.llama_model_get_vocab(model.model)
marks = ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep", "eos", "eot")
print(json.dumps({
    "tokens": [model.detokenize([t], special=True).hex() for t in range(model.n_vocab())],
    "marks": {name: getattr(llama_cpp, f"llama_vocab_{name}")(vocab) for name in marks},
    "begins_with_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
    "template": model.metadata["tokenizer.chat_template"],
    "context": int(model.metadata["llama.context_length"]),
    "call": model.tokenize(b"<tool_call>", add_bos=False, special=False),
}))
"""


def facts(role: str) -> dict[str, Any]:
    path = BUNDLED / f"tandem-demo-{role}-q8_0.gguf"
    ran = subprocess.run(
        [sys.executable, "-c", FACTS, str(path)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def draft(llama_cpp: None) -> dict[str, Any]:
    return facts("draft")


@pytest.fixture(scope="module")
def target(llama_cpp: None) -> dict[str, Any]:
    return facts("target")


@pytest.mark.parametrize("model", MANIFEST["models"], ids=lambda model: str(model["role"]))
def test_manifest_names_the_file_as_it_is(model: dict[str, Any]) -> None:
    """Each file has the size and the sha256 that the manifest gives, and so does the card."""
    content = (BUNDLED / model["file"]).read_bytes()
    assert len(content) == model["bytes"]
    assert hashlib.sha256(content).hexdigest() == model["sha256"]
    assert model["sha256"] in (BUNDLED / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_pair_fits_the_repository() -> None:
    """Both files together take at most 12 MB."""
    assert sum(model["bytes"] for model in MANIFEST["models"]) <= 12_000_000


def test_one_vocabulary(draft: dict[str, Any], target: dict[str, Any]) -> None:
    """Draft and target cut text into the same ids, else no proposal could be verified."""
    assert draft["tokens"] == target["tokens"]
    assert draft["marks"] == target["marks"]
    assert draft["template"] == target["template"]


def test_markers(target: dict[str, Any]) -> None:
    """Fill-in-the-middle and end-of-turn tokens are set; no token is added in front."""
    assert all(token >= 0 for token in target["marks"].values())
    assert len(set(target["marks"].values())) == len(target["marks"])
    assert not target["begins_with_bos"]


def test_tool_call_is_one_visible_token(target: dict[str, Any]) -> None:
    """`<tool_call>` is recognised in plain text and stays in the answer's text."""
    (token,) = target["call"]
    assert bytes.fromhex(target["tokens"][token]) == b"<tool_call>"


def test_template_is_the_one_trained_on(target: dict[str, Any]) -> None:
    """The file carries the template that rendered the training conversations."""
    source = BUNDLED.parent / "demo_pair" / "chat_template.jinja"
    assert target["template"] == source.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", MANIFEST["models"], ids=lambda model: str(model["role"]))
def test_context_is_the_trained_one(
    model: dict[str, Any], draft: dict[str, Any], target: dict[str, Any]
) -> None:
    """The context length in the file is the one the manifest says it was trained at."""
    found = {"draft": draft, "target": target}[model["role"]]
    assert found["context"] == model["context_length"]
