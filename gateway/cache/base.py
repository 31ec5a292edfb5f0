"""The contract of a response cache: finished answers by key.

A cache never fails a request: an implementation that cannot reach its store answers with a miss and
counts the error. Keys come from gateway/cache/key.py and are opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.core.chat import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A kept answer. `stored_at` is wall-clock seconds, for `Age`; `cost_usd` is what it saved."""

    completion: Completion
    upstream: str
    model: str
    stored_at: float
    cost_usd: float | None = None


@runtime_checkable
class Cache(Protocol):
    """Where finished answers are kept."""

    async def get(self, key: str) -> Entry | None:
        """The entry, or None when absent, expired or out of reach."""

    async def put(self, key: str, entry: Entry) -> bool:
        """Keep an entry; False if it was too large or the store could not be reached."""

    async def aclose(self) -> None:
        """Give connections back."""
