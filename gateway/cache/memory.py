"""Answers kept in this process: least recently used goes first, counted in bytes."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.cache.base import Entry
from gateway.core.chat import Completion

DEFAULT_BYTES = 256 * 1024 * 1024
DEFAULT_ENTRY_BYTES = 1024 * 1024
DEFAULT_TTL_S = 3600.0

_ENTRY_OVERHEAD = 1024
"""Key, dict slot and the dataclasses around the strings: rounded up, so the budget is a ceiling."""


class MemoryCache:
    """The first level of the exact cache, and the only one that sees machine-zone answers.

    An entry is stale once it is `ttl_s` old by `wall`, counted from its own `stored_at`, so that
    one copied from another cache does not start a second life here.
    """

    def __init__(
        self,
        *,
        max_bytes: int = DEFAULT_BYTES,
        max_entry_bytes: int = DEFAULT_ENTRY_BYTES,
        ttl_s: float = DEFAULT_TTL_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_entry_bytes = max_entry_bytes
        self._ttl_s = ttl_s
        self._wall = wall
        self._entries: OrderedDict[str, tuple[Entry, int]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # an empty cache is still one: `memory or other` asks whether it exists

    async def get(self, key: str) -> Entry | None:
        """The entry, or None when absent or expired."""
        found = self._entries.get(key)
        if found is None:
            return None
        entry, _ = found
        if self._wall() - entry.stored_at >= self._ttl_s:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    async def put(self, key: str, entry: Entry) -> bool:
        """Keep an entry, pushing the least recently used out; False if it is too large."""
        size = _ENTRY_OVERHEAD + text_bytes(entry.completion)
        if size > min(self._max_entry_bytes, self._max_bytes):
            return False
        self._remove(key)
        self._entries[key] = entry, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
        return True

    async def aclose(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _remove(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= found[1]


def text_bytes(completion: Completion) -> int:
    """What an answer's strings occupy in memory: one wide character makes all of a str wide."""
    total = sum(map(sys.getsizeof, completion.vectors))
    for choice in completion.choices:
        texts = [choice.text, choice.reasoning, choice.refusal]
        for call in choice.tool_calls:
            texts += [call.id, call.name, call.arguments]
        total += sum(sys.getsizeof(text) for text in texts)
    return total
