"""Two caches as one: a near one that is asked first, and a far one behind it.

A hit from afar is copied near. An answer is kept near at once and sent afar in the background, so
no client waits for the network. That machine-zone entries do not travel is the far cache's own
rule (gateway/cache/redis.py), so it also holds without this class.
"""

from __future__ import annotations

import asyncio

from gateway.cache.base import Cache, Entry

MAX_SENDING = 64


class TieredCache:
    """Near before far. Owns both and closes them."""

    def __init__(self, near: Cache, far: Cache, *, max_sending: int = MAX_SENDING) -> None:
        self._near = near
        self._far = far
        self._max_sending = max_sending
        self._sending: set[asyncio.Task[bool]] = set()
        self.dropped = 0
        """Entries that were not sent afar, because too many were on their way."""

    async def get(self, key: str) -> Entry | None:
        entry = await self._near.get(key)
        if entry is not None:
            return entry
        entry = await self._far.get(key)
        if entry is not None:
            await self._near.put(key, entry)
        return entry

    async def put(self, key: str, entry: Entry) -> bool:
        """Keep an entry near, and send it on its way afar. True if it was kept near."""
        kept = await self._near.put(key, entry)
        if len(self._sending) >= self._max_sending:
            self.dropped += 1
            return kept
        task = asyncio.create_task(self._far.put(key, entry), name="cache-send")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return kept

    async def flush(self) -> None:
        """Wait until what is on its way has arrived or failed; each is bounded by its cache."""
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def aclose(self) -> None:
        try:
            await self.flush()
        finally:
            await self._near.aclose()
            await self._far.aclose()
