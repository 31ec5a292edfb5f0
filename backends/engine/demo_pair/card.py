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
    """`facts`: corpus hash, seed and whatever was measured; nothing here is computed twice."""
    files = []
    for role in ROLES:
        path = folder / file_name(role)
        content = path.read_bytes()
        files.append(
            {
                "file": path.name,
                "role": role,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "context_length": context,
                "parameters": facts["parameters"][role],
            }
        )
    manifest = {"models": files, "licence": "Apache-2.0", **facts}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest
