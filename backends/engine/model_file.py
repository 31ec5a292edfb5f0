"""A model's file before it is loaded: whether it is one that can be, and the one that is meant."""

from __future__ import annotations

import hashlib
from pathlib import Path

from backends.engine import gguf
from backends.engine.shape import shape


def examined(path: Path, sha256: str | None) -> gguf.Gguf:
    """The headers of a file that may be loaded. Raises GgufError."""
    head = gguf.read(path)
    shape(head)  # whether it says what its memory is counted by
    if sha256 is not None and (found := digest(head.paths)) != sha256:
        raise gguf.GgufError(
            f"{path.name} is not the file that is pinned: its sha256 is {found[:12]}…, the"
            f" configuration says {sha256[:12]}…; it is damaged, or another one."
        )
    return head


def digest(paths: tuple[Path, ...]) -> str:
    """Of a model's file; of a split one's, the digest over the parts' digests."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
