"""The pool with models that load when a test says so."""

from __future__ import annotations

import asyncio

import pytest

from backends.engine.pool import Handle, ModelPool
from backends.engine.residency import Resident
from gateway.core.errors import EngineFailed, ModelLoading
from tests.fakes.clock import FakeClock


class Worker:
    """A model whose load ends when `gate` is set."""

    def __init__(self, pool: ModelPool, name: str, size: int, *, pinned: bool = False) -> None:
        self.loads = self.unloads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        pool.add(
            Resident(name=name, size=size, pinned=pinned),
            Handle(load=self.load, unload=self.unload),
        )

    async def load(self) -> bool:
        self.loads += 1
        await self.gate.wait()
        return True

    async def unload(self) -> None:
        self.unloads += 1


def test_many_who_wait_cause_one_load_and_one_who_leaves_does_not_end_it() -> None:
    """Single-flight, and cancellation of the first asker changes nothing for the others."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        worker = Worker(pool, "a", 60)
        worker.gate.clear()
        asked = [asyncio.create_task(pool.enter("a", 5)) for _ in range(8)]
        await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.sleep(0)
        worker.gate.set()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in ended[1:]] == [type(None)] * 7
        assert (worker.loads, pool.models["a"].users) == (1, 7)
        await pool.remove("a")

    asyncio.run(scenario())


def test_a_busy_model_is_not_unloaded_and_the_other_is_told_so() -> None:
    """The wait ends at its limit with what a client needs to come back; then the place is free."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        a, b = Worker(pool, "a", 60), Worker(pool, "b", 60)
        await pool.enter("a", 1)
        with pytest.raises(ModelLoading) as caught:
            await pool.enter("b", 0.05)
        error = caught.value
        assert (error.status, error.code, error.retryable) == (503, "model_loading", True)
        assert error.retry_after is not None and error.retry_after >= 1
        assert error.details["loading"]["state"] == "queued"
        assert (a.unloads, b.loads) == (0, 0)
        pool.leave("a")
        await pool.enter("b", 1)
        assert (a.unloads, b.loads, pool.models["a"].state) == (1, 1, "cold")
        await pool.remove("a")
        await pool.remove("b")

    asyncio.run(scenario())


def test_a_slow_load_goes_on_after_its_asker_was_told_to_come_back() -> None:
    """The second try finds the load under way or done, and causes no other."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        a = Worker(pool, "a", 60)
        a.gate.clear()
        with pytest.raises(ModelLoading) as caught:
            await pool.enter("a", 0.05)
        told = caught.value.details["loading"]
        assert told["state"] == "loading" and 0 <= told["progress"] <= 0.99
        a.gate.set()
        await pool.enter("a", 1)
        assert a.loads == 1
        await pool.remove("a")

    asyncio.run(scenario())


def test_a_pinned_model_stays_and_what_cannot_fit_beside_it_is_refused_at_once() -> None:
    """A refusal that no waiting would change is not a 503 to come back after."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        pinned, other = Worker(pool, "p", 60, pinned=True), Worker(pool, "b", 60)
        assert await pool.preload("p")
        assert "memory.budget" in pool.refusal("b")
        with pytest.raises(EngineFailed, match="cannot be loaded"):
            await pool.enter("b", 5)
        assert (pinned.unloads, other.loads) == (0, 0)
        await pool.remove("p")
        await pool.enter("b", 1)
        await pool.remove("b")

    asyncio.run(scenario())


def test_who_waits_when_the_model_is_removed_hears_so() -> None:
    """A shutdown leaves nobody waiting."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        Worker(pool, "a", 60).gate.clear()
        asked = asyncio.create_task(pool.enter("a", 60))
        await asyncio.sleep(0.01)
        await pool.remove("a")
        with pytest.raises(EngineFailed):
            await asked

    asyncio.run(scenario())


def test_who_gives_up_as_the_model_is_removed_hears_so_too() -> None:
    """A wait that ends at its limit in the moment of a removal has no model left to tell of."""

    async def scenario() -> None:
        pool = ModelPool(budget=100)
        for name in "ab":
            Worker(pool, name, 60)
        await pool.enter("a", 1)
        asked = asyncio.create_task(pool.enter("b", 0))
        await asyncio.sleep(0)  # it waits, and its limit is due with the loop's next turn
        await pool.remove("b")
        with pytest.raises(EngineFailed, match="closed"):
            await asked
        await pool.remove("a")

    asyncio.run(scenario())


def test_it_tells_how_long_a_cold_model_will_take() -> None:
    """All of a usual load while it is cold, what is left of it while it loads, then nothing."""

    async def scenario() -> None:
        clock = FakeClock()
        pool = ModelPool(budget=100, clock=clock)
        worker = Worker(pool, "a", 60)
        cold = pool.load_left_s("a")
        assert cold > 0 and pool.load_left_s("nobody") == 0.0
        clock.advance(50.0)
        assert pool.load_left_s("a") == cold, "nobody has asked for it"
        worker.gate.clear()
        asked = asyncio.create_task(pool.enter("a", 5))
        await asyncio.sleep(0)
        clock.advance(cold / 4)
        assert pool.load_left_s("a") == pytest.approx(cold * 3 / 4)
        worker.gate.set()
        await asked
        assert pool.load_left_s("a") == 0.0
        await pool.remove("a")

    asyncio.run(scenario())
