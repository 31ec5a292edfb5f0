"""What an operator may know of a pair's rung on the ladder: closed words and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

STATES = ("unproved", "probing", "proved", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """`state` is one of STATES; `reason` says why it was dropped. `probe_tokens` is what all its
    probes have had the upstream read and write.
    """

    strategy: str
    state: str
    reason: str = ""
    version: str = ""
    probes: int = 0
    probe_tokens: int = 0

    def __str__(self) -> str:
        return f"{self.strategy} {self.state}" + (f": {self.reason}" if self.reason else "")


@runtime_checkable
class Laddered(Protocol):
    """A backend that may have a rung to tell of; None for one that has nothing to prove."""

    @property
    def rung(self) -> Rung | None: ...
