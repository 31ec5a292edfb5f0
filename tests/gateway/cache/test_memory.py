"""The memory cache's own promises: a byte budget, and least recently used goes first."""

from __future__ import annotations

import asyncio

from gateway.cache.base import Entry
from gateway.cache.memory import MemoryCache, text_bytes
from gateway.core.chat import Choice, Completion
from tests.fakes.clock import FakeClock


def entry(text: str, stored_at: float) -> Entry:
    completion = Completion(choices=(Choice(text=text, finish_reason="stop"),))
    return Entry(completion=completion, upstream="u", model="m", stored_at=stored_at)


def test_the_byte_budget_is_a_ceiling() -> None:
    """However many entries come, their bytes stay within the budget, and come back to zero."""

    async def scene() -> None:
        clock = FakeClock()
        cache = MemoryCache(max_bytes=100_000, wall=clock)
        for i in range(200):
            assert await cache.put(f"k{i}", entry("x" * 3000, clock()))
            assert cache.bytes <= 100_000
        assert 0 < len(cache) < 40
        await cache.aclose()
        assert (cache.bytes, len(cache)) == (0, 0)

    asyncio.run(scene())


def test_least_recently_used_goes_first() -> None:
    """An entry that was read stays when one that was not must go."""

    async def scene() -> None:
        clock = FakeClock()
        cache = MemoryCache(max_bytes=3 * 5000, wall=clock)
        for key in ("a", "b", "c"):
            await cache.put(key, entry("x" * 3500, clock()))
        assert await cache.get("a") is not None
        await cache.put("d", entry("x" * 3500, clock()))
        assert await cache.get("b") is None
        assert await cache.get("a") is not None
        assert await cache.get("d") is not None

    asyncio.run(scene())


def test_a_replaced_or_expired_entry_gives_its_bytes_back() -> None:
    """The byte count follows replacement and expiry."""

    async def scene() -> None:
        clock = FakeClock()
        cache = MemoryCache(ttl_s=10, wall=clock)
        await cache.put("k", entry("x" * 5000, clock()))
        await cache.put("k", entry("x", clock()))
        assert cache.bytes < 3000
        clock.advance(10)
        assert await cache.get("k") is None
        assert cache.bytes == 0

    asyncio.run(scene())


def test_an_entry_ages_from_its_own_time() -> None:
    """An entry copied from another cache has no second life: its age counts, not its arrival."""

    async def scene() -> None:
        clock = FakeClock()
        cache = MemoryCache(ttl_s=100, wall=clock)
        await cache.put("k", entry("x", clock() - 90))
        clock.advance(9)
        assert await cache.get("k") is not None
        clock.advance(1)
        assert await cache.get("k") is None

    asyncio.run(scene())


def test_wide_text_counts_by_what_it_occupies() -> None:
    """One emoji makes every character of a str four bytes wide, and the count knows."""
    plain = text_bytes(entry("x" * 1000, 0).completion)
    wide = text_bytes(entry("x" * 999 + "\U0001f600", 0).completion)
    assert wide - plain > 2900
