"""Rows 24, 45 and 48: more than there is room for. A minute of load in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from gateway.core.chat import ChatRequest
from gateway.core.errors import LocalUnavailable, Overloaded, TandemError, UpstreamUnreachable
from gateway.core.events import Event
from gateway.core.exchange import Call, Caller
from gateway.core.routing import Tier, Zone
from gateway.resilience.concurrency import FIRST
from tests.fakes.harness import Harness, Kept, exchange
from tests.fakes.scripted import ScriptedBackend, saying, upstream
from tests.fakes.virtual_time import run

TTFT_S = 0.2
SLOTS = 40


class Box(ScriptedBackend):
    """An upstream with so many slots and a queue without end before them."""

    ttft_s = TTFT_S
    rest_s = 0.0
    slots: asyncio.Semaphore

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(request)
        async with self.slots:
            await asyncio.sleep(self.ttft_s)
            first, *others = saying("x")
            yield first  # type: ignore[misc]
            await asyncio.sleep(self.rest_s)
            for event in others:
                yield event  # type: ignore[misc]


def box(name: str, *, rest_s: float = 0.0, slots: int = SLOTS) -> Box:
    made = Box(upstream(name))
    made.slots, made.rest_s = asyncio.Semaphore(slots), rest_s
    return made


@dataclass
class Load:
    """Requests at a steady rate for a while, and what became of them."""

    harness: Harness
    answered: int = 0
    shed: int = 0
    ttft: list[float] = field(default_factory=list)

    async def offer(self, rate: float, seconds: float) -> Load:
        """A new count of `rate` requests a second."""
        counted, loop = Load(self.harness), asyncio.get_running_loop()
        asking = []
        for _ in range(int(rate * seconds)):
            asking.append(asyncio.create_task(counted._ask(loop)))
            await asyncio.sleep(1 / rate)
        within = Load(self.harness, counted.answered, counted.shed, list(counted.ttft))
        await asyncio.gather(*asking)
        return within

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = exchange()
        asked.arrived = loop.time()
        try:
            reply = await self.harness.pipeline.answer(asked)
        except TandemError as error:
            assert error.status in (429, 503)
            assert error.retry_after is not None and error.retry_after >= 1
            self.shed += 1
            return
        self.ttft.append(loop.time() - asked.arrived)
        await reply.events.into(Kept())
        self.answered += 1

    @property
    def p99(self) -> float:
        return sorted(self.ttft)[int(0.99 * len(self.ttft))]


async def over(*boxes: Box) -> Harness:
    harness = Harness(boxes, limit=5000, clock=asyncio.get_running_loop().time)
    await harness.fleet.look()
    return harness


def test_row_24_a_slow_upstream_gets_less() -> None:
    """Ten times slower, an upstream's limit shrinks and the load moves to the other, which is still
    learning what it can take: 95% are answered, and no breaker opens."""

    async def story() -> None:
        slow, quick = box("a", slots=1000), box("b", slots=1000)
        harness = await over(slow, quick)
        load = Load(harness)
        await load.offer(rate=250, seconds=20)
        before = harness.fleet.vitals()["a"].concurrency_limit
        assert before >= FIRST
        share = len(slow.calls) / (len(slow.calls) + len(quick.calls))
        slow.ttft_s = 10 * TTFT_S
        for each in (slow, quick):
            each.calls.clear()
        seen = await load.offer(rate=250, seconds=20)
        after = harness.fleet.vitals()
        assert after["a"].concurrency_limit < before / 2
        assert len(slow.calls) / (len(slow.calls) + len(quick.calls)) < share / 2
        assert [after[name].opened for name in "ab"] == [0, 0]
        assert seen.shed <= 0.05 * 250 * 20

    run(story())


def test_row_48_five_times_too_much() -> None:
    """Over a minute of five times what an upstream can do, 90% of its best is done; once the limit
    has found its place, in five seconds, the first content of what was let in comes within twice
    the usual; and ten seconds after the minute all is as before."""

    async def story() -> None:
        load, best = Load(await over(box("a"))), SLOTS / TTFT_S
        usual = await load.offer(rate=0.95 * best, seconds=30)
        finding = await load.offer(rate=5 * best, seconds=5)
        over_load = await load.offer(rate=5 * best, seconds=55)
        assert finding.answered + over_load.answered >= 0.9 * best * 60
        assert over_load.shed > 0
        assert over_load.p99 <= 2 * usual.p99
        await load.offer(rate=0.9 * best, seconds=8)
        after = await load.offer(rate=0.9 * best, seconds=2)
        assert after.shed == 0
        assert after.p99 <= 1.05 * usual.p99

    run(story())


@pytest.mark.parametrize(("slots", "rest_s"), [(40, 0.8), (8, 1.0), (100, 3.0)])
def test_row_48_where_slots_are_held_by_streams(slots: int, rest_s: float) -> None:
    """Where a stream holds its slot to the end, time to first content says less: goodput and
    recovery are as promised, and first contents do not come ever later."""

    async def story() -> None:
        held = box("a", rest_s=rest_s, slots=slots)
        load, best = Load(await over(held)), slots / (TTFT_S + rest_s)
        await load.offer(rate=0.9 * best, seconds=30)
        first = await load.offer(rate=5 * best, seconds=30)
        second = await load.offer(rate=5 * best, seconds=30)
        assert second.answered >= 0.9 * best * 30
        assert second.p99 <= first.p99
        await load.offer(rate=0.8 * best, seconds=8)
        after = await load.offer(rate=0.8 * best, seconds=2)
        assert (after.shed, after.p99 <= 2 * TTFT_S) == (0, True)

    run(story())


def test_row_45_what_must_stay_local_has_its_share() -> None:
    """With the cloud down and the local model busy, places run out with a 429 that says when; the
    last ones are for requests that must stay on the machine, by their key."""

    async def story() -> None:
        cloud = ScriptedBackend(upstream("cloud"), [UpstreamUnreachable("refused")])
        gate = asyncio.Event()
        words = saying("x")
        here = upstream("local", tier=Tier.LOCAL, zone=Zone.MACHINE)
        local = ScriptedBackend(here, [words[0], gate, *words[1:]])
        harness = Harness([cloud, local], limit=40)
        inside = []
        with pytest.raises(Overloaded) as caught:
            while True:
                inside.append(await harness.reply())
        assert len(inside) == 36
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        private = Caller(zone=Zone.MACHINE)
        inside += [await harness.reply(caller=private) for _ in range(2)]
        with pytest.raises(Overloaded):
            await harness.reply(caller=private)
        for reply in inside:
            await reply.events.aclose()
        assert harness.admission.inside == 0
        assert not any(harness.fleet.in_flight().values())
        here_only = await harness.reply(caller=private)
        await here_only.events.aclose()
        local.ok = False
        with pytest.raises(LocalUnavailable):
            await harness.reply(caller=private)
        assert cloud.calls and not cloud.open_streams

    asyncio.run(story())
