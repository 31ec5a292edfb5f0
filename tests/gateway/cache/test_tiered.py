"""Near before far: what is copied, what waits for nobody, and what survives a dead far side."""

from __future__ import annotations

import asyncio

from gateway.cache.base import Entry
from gateway.cache.memory import MemoryCache
from gateway.cache.tiered import TieredCache
from gateway.core.chat import Choice, Completion
from tests.fakes.clock import FakeClock

ENTRY = Entry(
    completion=Completion(choices=(Choice(text="Paris.", finish_reason="stop"),)),
    upstream="u",
    model="m",
    stored_at=FakeClock()(),
)


class FarCache(MemoryCache):
    """A far cache that can be held up, and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(wall=FakeClock())
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.closed = False

    async def get(self, key: str) -> Entry | None:
        self.asked.append(key)
        return await super().get(key)

    async def put(self, key: str, entry: Entry) -> bool:
        await self.gate.wait()
        return await super().put(key, entry)

    async def aclose(self) -> None:
        self.closed = True


def near() -> MemoryCache:
    return MemoryCache(wall=FakeClock())


def test_a_near_hit_does_not_ask_afar() -> None:
    """What is near is answered without the network."""

    async def scene() -> None:
        far = FarCache()
        cache = TieredCache(near(), far)
        await cache.put("k", ENTRY)
        assert await cache.get("k") == ENTRY
        assert far.asked == []
        await cache.aclose()

    asyncio.run(scene())


def test_a_far_hit_is_copied_near() -> None:
    """The second lookup of a far entry does not ask afar again."""

    async def scene() -> None:
        far = FarCache()
        await far.put("k", ENTRY)
        cache = TieredCache(near(), far)
        assert await cache.get("k") == ENTRY
        assert await cache.get("k") == ENTRY
        assert far.asked == ["k"]
        await cache.aclose()

    asyncio.run(scene())


def test_a_put_does_not_wait_for_the_far_side() -> None:
    """With the far side stuck, put returns and the entry is already near."""

    async def scene() -> None:
        far = FarCache()
        far.gate.clear()
        cache = TieredCache(near(), far)
        assert await cache.put("k", ENTRY)
        assert await cache.get("k") == ENTRY
        assert await far.get("k") is None
        far.gate.set()
        await cache.flush()
        assert await far.get("k") == ENTRY
        await cache.aclose()

    asyncio.run(scene())


def test_what_is_on_its_way_is_bounded() -> None:
    """With the far side stuck, entries beyond the bound are dropped and counted, not queued."""

    async def scene() -> None:
        far = FarCache()
        far.gate.clear()
        cache = TieredCache(near(), far, max_sending=3)
        for i in range(5):
            assert await cache.put(f"k{i}", ENTRY)
        assert cache.dropped == 2
        far.gate.set()
        await cache.flush()
        assert len(far) == 3
        await cache.aclose()

    asyncio.run(scene())


def test_closing_waits_for_what_is_on_its_way() -> None:
    """aclose lets the last entries arrive, then closes both sides."""

    async def scene() -> None:
        far = FarCache()
        far.gate.clear()
        cache = TieredCache(near(), far)
        await cache.put("k", ENTRY)
        closing = asyncio.create_task(cache.aclose())
        await asyncio.sleep(0)
        assert not far.closed
        far.gate.set()
        await closing
        assert far.closed
        assert await far.get("k") == ENTRY

    asyncio.run(scene())
