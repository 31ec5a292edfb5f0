"""A mistake in a configuration: where it is, as a path of keys and indices, and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing to correct.

    `at_key` says that the key itself is wrong (unknown, repeated), not the value under it. Flaws
    are collected, not raised, so that an operator sees all of them at once.
    """

    path: Path
    message: str
    at_key: bool = False


def dotted(path: Path) -> str:
    """The path as people write it: `rules[1].when`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
