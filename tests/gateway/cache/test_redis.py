"""Redis dead, frozen, restarted, hostile: the cache misses, quickly, and comes back by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.cache.base import Entry
from gateway.cache.key import LOCAL_ONLY
from gateway.cache.redis import REST_S, RedisCache
from gateway.core.chat import Choice, Completion
from tests.fakes.clock import FakeClock
from tests.fakes.redis_server import RedisServer

PATIENT_S = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


def entry(clock: FakeClock, text: str = "Paris.") -> Entry:
    completion = Completion(choices=(Choice(text=text, finish_reason="stop"),))
    return Entry(completion=completion, upstream="u", model="m", stored_at=clock())


def make(
    url: str, clock: FakeClock, *, secret: str = "shared", timeout_s: float = PATIENT_S
) -> RedisCache:
    return RedisCache(url, secret=secret, timeout_s=timeout_s, wall=clock, clock=clock)


def test_a_dead_redis_is_a_miss() -> None:
    """With nothing listening, get and put answer at once, and the failure is counted once."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))

        async def scene() -> None:
            clock = FakeClock()
            cache = make(f"redis://127.0.0.1:{unheard.getsockname()[1]}/0", clock)
            assert await cache.get("k") is None
            assert not await cache.put("k", entry(clock))
            assert (cache.up, cache.errors) == (False, 1)
            await cache.aclose()

        asyncio.run(scene())


def test_a_frozen_redis_is_left_alone_after_one_timeout(server: RedisServer) -> None:
    """A hung server costs one caller its timeout; those after it do not wait for the network."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock, timeout_s=0.05)
        server.freeze()
        try:
            assert await cache.get("k") is None
            assert cache.errors == 1
            for _ in range(100):
                assert await cache.get("k") is None
            assert cache.errors == 1
        finally:
            server.thaw()
        await cache.aclose()

    asyncio.run(scene())


def test_one_caller_probes_for_everyone(server: RedisServer) -> None:
    """When the rest ends with Redis still frozen, one of many concurrent callers pays for it."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock, timeout_s=0.05)
        server.freeze()
        try:
            await cache.get("k")
            clock.advance(REST_S)
            assert await asyncio.gather(*(cache.get("k") for _ in range(50))) == [None] * 50
            assert cache.errors == 2
        finally:
            server.thaw()
        await cache.aclose()

    asyncio.run(scene())


def test_a_restarted_redis_is_used_again(server: RedisServer) -> None:
    """After a kill and a start, the first call after the rest reaches it, over a new connection."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock)
        assert await cache.put("k", entry(clock))
        server.kill()
        assert await cache.get("k") is None
        assert not cache.up
        server.start()
        clock.advance(REST_S)
        assert await cache.put("k", entry(clock))
        assert await cache.get("k") == entry(clock)
        assert cache.up
        await cache.aclose()

    asyncio.run(scene())


def test_a_thawed_redis_is_used_again(server: RedisServer) -> None:
    """After a freeze and a thaw, no late answer is taken for another call's."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock, timeout_s=0.5)
        kept = {key: entry(clock, key.upper()) for key in ("a", "b")}
        for key in kept:
            assert await cache.put(key, kept[key])
        server.freeze()
        assert await cache.get("a") is None
        server.thaw()
        await until_answers(server)
        clock.advance(REST_S)
        assert await cache.get("b") == kept["b"]
        assert await cache.get("a") == kept["a"]
        await cache.aclose()

    asyncio.run(scene())


async def until_answers(server: RedisServer) -> None:
    reader = Redis.from_url(server.url)
    assert await reader.ping()
    await reader.aclose()


def test_a_cancelled_call_does_not_spoil_the_next(server: RedisServer) -> None:
    """Clients that leave in the middle of a lookup leave no answer behind for somebody else."""

    async def scene() -> None:
        clock = FakeClock()
        cache = RedisCache(
            server.url, secret="s", timeout_s=PATIENT_S, max_connections=1, wall=clock, clock=clock
        )
        await cache.put("a", entry(clock, "A"))
        await cache.put("b", entry(clock, "B"))
        for turns in range(20):
            task = asyncio.create_task(cache.get("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await cache.get("b") == entry(clock, "B")
        assert (cache.errors, cache.rejected) == (0, 0)
        await cache.aclose()

    asyncio.run(scene())


def test_something_else_on_the_port_is_a_miss() -> None:
    """A server that speaks another protocol makes misses, not exceptions."""

    async def scene() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(64)
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        clock = FakeClock()
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as impostor:
            port = impostor.sockets[0].getsockname()[1]
            cache = make(f"redis://127.0.0.1:{port}/0", clock)
            assert await cache.get("k") is None
            assert not cache.up
            await cache.aclose()

    asyncio.run(scene())


def test_replicas_share_by_their_secret(server: RedisServer) -> None:
    """Two processes with one secret share an entry; another secret, or none, shares nothing."""

    async def scene() -> None:
        clock = FakeClock()
        one, two = make(server.url, clock), make(server.url, clock)
        stranger, loner = make(server.url, clock, secret="x"), make(server.url, clock, secret="")
        await one.put("k", entry(clock))
        assert await two.get("k") == entry(clock)
        assert await stranger.get("k") is None
        assert await loner.get("k") is None
        for cache in (one, two, stranger, loner):
            await cache.aclose()

    asyncio.run(scene())


def test_a_redis_writer_cannot_put_words_into_an_answer(server: RedisServer) -> None:
    """A value that was changed, or copied under another key, in Redis is a counted miss."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock)
        await cache.put("victim", entry(clock, "the answer"))
        await cache.put("other", entry(clock, "other words"))
        writer = Redis.from_url(server.url)
        names = {name.decode().rsplit(":", 1)[1]: name for name in await writer.keys("tandem:c:*")}
        value = await writer.get(names["victim"])
        assert b"the answer" in value
        for forged in (
            value.replace(b"the answer", b"bad answer"),
            await writer.get(names["other"]),
            b"",
        ):
            await writer.set(names["victim"], forged)
            assert await cache.get("victim") is None
        assert cache.rejected == 3
        assert cache.up
        await writer.aclose()
        await cache.aclose()

    asyncio.run(scene())


def test_machine_zone_entries_never_reach_redis(server: RedisServer) -> None:
    """A marked key is neither sent nor asked for, even by a bare Redis cache."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock)
        assert not await cache.put(LOCAL_ONLY + "k", entry(clock))
        assert await cache.get(LOCAL_ONLY + "k") is None
        reader = Redis.from_url(server.url)
        assert await reader.dbsize() == 0
        assert (await reader.info("commandstats")).get("cmdstat_get") is None
        await reader.aclose()
        await cache.aclose()

    asyncio.run(scene())


def test_redis_forgets_by_itself(server: RedisServer) -> None:
    """Every entry is stored with the time it has left, so that Redis does not fill up."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url, clock)
        await cache.put("k", entry(clock))
        reader = Redis.from_url(server.url)
        (name,) = await reader.keys("*")
        assert 0 < await reader.pttl(name) <= 3_600_000
        await reader.aclose()
        await cache.aclose()

    asyncio.run(scene())


def test_a_url_cannot_undo_what_keeps_us_safe(server: RedisServer) -> None:
    """Options in the URL, such as decoding, do not override our own."""

    async def scene() -> None:
        clock = FakeClock()
        cache = make(server.url + "?decode_responses=True&socket_timeout=99", clock)
        assert await cache.put("k", entry(clock, "é" * 2000))
        assert await cache.get("k") == entry(clock, "é" * 2000)
        await cache.aclose()

    asyncio.run(scene())


def test_a_malformed_url_is_said_at_once() -> None:
    """A URL that is none raises ValueError at construction, not at the first request."""
    with pytest.raises(ValueError, match="scheme"):
        RedisCache("localhost:6379")
