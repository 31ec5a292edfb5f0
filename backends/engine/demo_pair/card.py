"""`manifest.json` for programs and `MODEL_CARD.md` for people, beside the GGUF files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

ROLES = ("draft", "target")


def file_name(role: str) -> str:
    return f"tandem-demo-{role}-q8_0.gguf"


def write_manifest(folder: Path, *, context: int, facts: dict[str, Any]) -> dict[str, Any]:
    """`facts`: corpus hash, seed and what was measured; nothing here is computed twice."""
    models = []
    for role in ROLES:
        content = (folder / file_name(role)).read_bytes()
        models.append(
            {
                "file": file_name(role),
                "role": role,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "context_length": context,
                "parameters": facts["parameters"][role],
            }
        )
    manifest = {"models": models, "licence": "Apache-2.0", **facts}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    text = template.format(
        context=manifest["models"][0]["context_length"],
        files=_files(manifest["models"]),
        losses=_by_role(manifest["measured"]["held_out_loss"], _LOSSES),
        answers=_answers(manifest["measured"]),
        acceptance=_acceptance(manifest["measured"]["acceptance"]),
        prompts=manifest["measured"]["prompts_per_class"],
        half=manifest["measured"]["prompts_per_class"] // 2,
        triple=manifest["measured"]["prompts_per_class"] * 3,
        corpus=manifest["corpus"],
        corpus_sha256=manifest["corpus_sha256"],
        trained=manifest["corpus_files"]["trained"],
        held_out=manifest["corpus_files"]["held_out"],
        seed=manifest["seed"],
        target_tokens=f"{manifest['training']['target']['tokens'] / 1e6:.1f}",
        draft_tokens=f"{manifest['training']['draft']['tokens'] / 1e6:.1f}",
    )
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


_LOSSES = {
    "code_nats_per_token": "code, nats per token",
    "code_bits_per_byte": "code, bits per byte",
    "chat_nats_per_token": "transcripts (assistant's words), nats per token",
}


def _files(models: list[dict[str, Any]]) -> str:
    rows = [
        f"| `{m['file']}` | {m['parameters'] / 1e6:.2f} million | {m['bytes'] / 1e6:.2f} MB "
        f"| `{m['sha256']}` |"
        for m in models
    ]
    return "\n".join(("| file | parameters | size | sha256 |", "|---|---|---|---|", *rows))


def _by_role(values: dict[str, dict[str, float]], names: dict[str, str]) -> str:
    rows = [
        f"| {shown} | {values['draft'][name]:.2f} | {values['target'][name]:.2f} |"
        for name, shown in names.items()
    ]
    return "\n".join(("| held-out loss | draft | target |", "|---|---|---|", *rows))


def _answers(measured: dict[str, Any]) -> str:
    draft, target = measured["exact_answers"]["draft"], measured["exact_answers"]["target"]
    rows = [f"| {name} | {draft[name]:.0%} | {target[name]:.0%} |" for name in target]
    for name, shown in (
        ("valid_json", "JSON extraction: valid JSON at all"),
        ("next_line", "next line of a held-out library file"),
        ("rest_of_line_fim", "rest of a line in a held-out file, fill in the middle"),
    ):
        values = measured[name]
        rows.append(f"| {shown} | {values['draft']:.0%} | {values['target']:.0%} |")
    return "\n".join(("| exactly as expected | draft | target |", "|---|---|---|", *rows))


def _acceptance(classes: dict[str, dict[str, float]]) -> str:
    rows = [
        f"| {name} | {found['agreed']:.0%} | {found['per_round']:.2f} | {found['tokens']:.0f} |"
        for name, found in classes.items()
    ]
    head = "| class | tokens agreed | accepted of 4 proposed | tokens compared |"
    return "\n".join((head, "|---|---|---|---|", *rows))
