"""The contract of a cache: one suite, run on every entry of CACHES, with time turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from gateway.cache import CACHES
from gateway.cache.base import Cache, Entry
from gateway.cache.memory import MemoryCache
from gateway.cache.redis import RedisCache
from gateway.cache.tiered import TieredCache
from gateway.core.chat import Choice, Completion, ToolCall, Usage
from gateway.core.registry import load
from tests.fakes.clock import FakeClock
from tests.fakes.redis_server import RedisServer

PATIENT_S = 5.0
TTL_S = 3600.0

Scene = Callable[[Cache, FakeClock], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=sorted(CACHES))
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scene on a fresh cache of one kind and closes it."""
    kind = request.param
    url = "" if kind == "memory" else request.getfixturevalue("server").url

    def run(scene: Scene) -> None:
        async def act() -> None:
            clock = FakeClock()
            cache = make(kind, url, clock)
            try:
                await scene(cache, clock)
            finally:
                await cache.aclose()

        asyncio.run(act())

    return run


def make(kind: str, url: str, clock: FakeClock) -> Cache:
    near = MemoryCache(ttl_s=TTL_S, wall=clock)
    if kind == "memory":
        return near
    far = RedisCache(url, timeout_s=PATIENT_S, ttl_s=TTL_S, wall=clock, clock=clock)
    return far if kind == "redis" else TieredCache(near, far)


def entry(text: str = "Paris.", *, stored_at: float) -> Entry:
    call = ToolCall(id="call_1", name="f", arguments='{"x": "é"}')
    choice = Choice(
        text=text, reasoning="r", refusal="no", tool_calls=(call,), finish_reason="stop"
    )
    usage = Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1, reasoning_tokens=1)
    return Entry(
        completion=Completion(choices=(choice,), usage=usage),
        upstream="big",
        model="big-1",
        stored_at=stored_at,
        cost_usd=0.125,
    )


@pytest.mark.parametrize("kind", sorted(CACHES))
def test_the_table_names_caches(kind: str) -> None:
    """Every line of CACHES loads a class with the contract's methods."""
    assert issubclass(load(CACHES, kind, what="cache"), Cache)


def test_what_was_put_is_got(play: Play) -> None:
    """An entry comes back equal in every field, tool calls, usage and cost included."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        kept = entry(stored_at=clock())
        assert await cache.put("key", kept)
        assert await cache.get("key") == kept

    play(scene)


def test_an_unknown_key_is_a_miss(play: Play) -> None:
    """A key that was never put yields None."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        await cache.put("key", entry(stored_at=clock()))
        assert await cache.get("other") is None

    play(scene)


def test_a_later_put_replaces(play: Play) -> None:
    """The second entry under a key is the one that is found."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        await cache.put("key", entry("old", stored_at=clock()))
        await cache.put("key", entry("new", stored_at=clock()))
        assert await cache.get("key") == entry("new", stored_at=clock())

    play(scene)


def test_an_entry_expires_by_its_age(play: Play) -> None:
    """An entry is found just before its time to live ends, and not at that moment."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        await cache.put("key", entry(stored_at=clock()))
        clock.advance(TTL_S - 1)
        assert await cache.get("key") is not None
        clock.advance(1)
        assert await cache.get("key") is None

    play(scene)


def test_a_large_answer_is_kept_whole(play: Play) -> None:
    """Half a megabyte of text, compressible or not, comes back character for character."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        wide = "".join(chr(0x4E00 + i % 20000) for i in range(100_000))
        for text in ("a" * 500_000, wide):
            assert await cache.put("key", entry(text, stored_at=clock()))
            assert await cache.get("key") == entry(text, stored_at=clock())

    play(scene)


def test_an_answer_over_a_megabyte_is_refused(play: Play) -> None:
    """put says False for an entry beyond the limit, and nothing is found afterwards."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        assert not await cache.put("key", entry("a" * 1_100_000, stored_at=clock()))
        assert await cache.get("key") is None

    play(scene)


def test_many_at_once(play: Play) -> None:
    """A hundred concurrent callers each get their own entry and nobody else's."""

    async def scene(cache: Cache, clock: FakeClock) -> None:
        async def one(i: int) -> None:
            await cache.put(f"key-{i}", entry(f"text-{i}", stored_at=clock()))
            found = await cache.get(f"key-{i}")
            assert found is not None
            assert found.completion.choices[0].text == f"text-{i}"

        await asyncio.gather(*(one(i) for i in range(100)))

    play(scene)
