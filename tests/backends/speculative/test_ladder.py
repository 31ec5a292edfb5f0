"""When a rung of the ladder may be used: probed once for a version, and never trusted beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pytest

from backends.base import Backend
from backends.speculative.ladder import FIRST_PAUSE_S, LOOK_EVERY_S, VERSIONS_KEPT, Ladder, climb
from backends.speculative.strategies.base import MOST_PROBE_TOKENS, Bill, Declined, Surprise
from gateway.core.chat import ChatRequest
from gateway.core.errors import LocalUnavailable, UpstreamBroken, UpstreamUnreachable
from gateway.core.events import Event, Finish, SpeculationReport, TextDelta
from gateway.core.exchange import Call
from gateway.core.routing import Zone
from gateway.dialects.openai_chat import OpenAIChat
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import ScriptedBackend, saying, upstream

CALL = Call(id="req_1")


@dataclass
class Scripted:
    """A strategy whose probe and answers are told beforehand."""

    name: ClassVar[str] = "scripted"

    versions: str = "1"
    verdict: Exception | None = None
    costs: int = 10
    unfit: str = ""
    script: list[Event | Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    probed: int = 0
    asked: int = 0
    open: int = 0

    def declines(self, request: ChatRequest) -> str:
        return self.unfit

    async def version(self) -> str:
        return self.versions

    async def probe(self, bill: Bill) -> None:
        self.probed += 1
        if self.gate is not None:
            await self.gate.wait()
        bill.may(self.costs)
        bill.tokens += self.costs
        if self.verdict is not None:
            raise self.verdict

    async def events(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.asked += 1
        self.open += 1
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.open -= 1


def story(told: Callable[[Ladder, Scripted, FakeClock], Awaitable[None]], **script: Any) -> None:
    async def whole() -> None:
        strategy, clock = Scripted(**script), FakeClock()
        ladder = Ladder(strategy, clock=clock)
        try:
            await told(ladder, strategy, clock)
        finally:
            await ladder.aclose()

    asyncio.run(asyncio.wait_for(whole(), 20))


async def answer(ladder: Ladder, plain: ScriptedBackend | None = None) -> tuple[str, str]:
    """The text of one answer, and how it came."""
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
    request = OpenAIChat().decode(body, {})
    target = cast(Backend, plain or ScriptedBackend(upstream("far"), saying("plain")))
    text, how = "", ""
    async with aclosing(climb(ladder, upstream("pair"), target, request, CALL)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, SpeculationReport):
                how = event.strategy
    return text, how


FAST: list[Event | Exception] = [TextDelta(text="fast"), Finish(reason="stop")]


def test_nobody_waits_for_a_probe() -> None:
    """The first answers are plain; once the probe has ended well, the strategy gives them."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        gate = strategy.gate = asyncio.Event()
        assert ladder.rung.state == "unproved"
        for _ in range(3):
            assert await answer(ladder) == ("plain", "stream;probing")
        assert ladder.rung.state == "probing"
        gate.set()
        assert (await ladder.settled()).state == "proved"
        assert await answer(ladder) == ("fast", "")
        assert (strategy.probed, ladder.rung.probe_tokens) == (1, 10)

    story(told, script=FAST)


def test_what_is_never_asked_is_never_probed() -> None:
    """A request that the strategy declines costs no probe."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        assert await answer(ladder) == ("plain", "stream;tools")
        assert (strategy.probed, ladder.rung.state) == (0, "unproved")

    story(told, unfit="tools")


def test_a_surprise_drops_it_for_that_version() -> None:
    """It is not tried again, until another version is there; that one is tried once."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        rung = await ladder.settled()
        assert (rung.state, rung.reason) == ("dropped", "echo")
        for _ in range(5):
            clock.now += LOOK_EVERY_S + 1
            await ladder.settled()
        assert strategy.probed == 1
        assert await answer(ladder) == ("plain", "stream;echo")
        strategy.versions, strategy.verdict = "2", None
        clock.now += LOOK_EVERY_S + 1
        assert (await ladder.settled()).state == "proved"
        assert strategy.probed == 2
        strategy.versions = "1"
        clock.now += LOOK_EVERY_S + 1
        assert (await ladder.settled()).reason == "echo"
        assert strategy.probed == 2

    story(told, verdict=Surprise("echo"), script=FAST)


def test_an_upstream_that_is_down_is_tried_again() -> None:
    """Nothing was learnt: no verdict, and another try after a pause that doubles."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        assert (await ladder.settled()).state == "unproved"
        await ladder.settled()
        assert strategy.probed == 1
        clock.now += FIRST_PAUSE_S + 1
        await ladder.settled()
        clock.now += FIRST_PAUSE_S + 1
        await ladder.settled()
        assert strategy.probed == 2
        strategy.verdict = None
        clock.now += FIRST_PAUSE_S + 1
        assert (await ladder.settled()).state == "proved"

    story(told, verdict=UpstreamUnreachable("down"))


def test_a_surprise_in_the_middle_of_work_ends_it() -> None:
    """Before the first word the stream takes over; behind the last one the answer stands."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        await ladder.settled()
        assert await answer(ladder) == ("plain", "stream;wrong-counts")
        assert await answer(ladder) == ("plain", "stream;wrong-counts")
        assert (strategy.asked, ladder.rung.state) == (1, "dropped")

    story(told, script=[Surprise("wrong-counts")])

    async def later(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        await ladder.settled()
        assert await answer(ladder) == ("fast", "")
        assert ladder.rung.reason == "wrong-counts"
        assert strategy.open == 0

    story(later, script=[*FAST, Surprise("wrong-counts")])


def test_declining_is_no_fault() -> None:
    """A strategy may say no to one answer and give the next."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        await ladder.settled()
        assert await answer(ladder) == ("plain", "stream;no-draft")
        strategy.script = FAST
        assert await answer(ladder) == ("fast", "")

    story(told, script=[Declined("no-draft")])


def test_errors_are_the_callers() -> None:
    """An upstream's failure is not hidden by asking the same upstream again."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        await ladder.settled()
        plain = ScriptedBackend(upstream("far"), saying("plain"))
        with pytest.raises(UpstreamBroken):
            await answer(ladder, plain)
        assert not plain.calls

    story(told, script=[UpstreamBroken("cut")])


def test_a_zone_is_asked_before_anything() -> None:
    """Outside it nothing is drafted, sent or probed."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
        request = OpenAIChat().decode(body, {})
        target = cast(Backend, ScriptedBackend(upstream("far"), saying("plain")))
        call = Call(id="1", zone=Zone.MACHINE)
        with pytest.raises(LocalUnavailable):
            await anext(climb(ladder, upstream("pair"), target, request, call))
        assert (strategy.probed, strategy.asked) == (0, 0)

    story(told)


def test_a_probe_has_a_budget() -> None:
    """What would cost more is not asked, and the strategy is not used."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        rung = await ladder.settled()
        assert (rung.reason, rung.probe_tokens) == ("probe-too-dear", 0)

    story(told, costs=MOST_PROBE_TOKENS + 1)


def test_closing_ends_a_probe() -> None:
    """A gateway that leaves does not wait for an upstream."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        strategy.gate = asyncio.Event()
        ladder.why_not()
        while not strategy.probed:
            await asyncio.sleep(0)

    story(told)


def test_old_versions_are_forgotten() -> None:
    """A server that is called something else each time does not fill the memory."""

    async def told(ladder: Ladder, strategy: Scripted, clock: FakeClock) -> None:
        for number in range(VERSIONS_KEPT + 5):
            strategy.versions = str(number)
            clock.now += LOOK_EVERY_S + 1
            await ladder.settled()
        assert len(ladder._verdicts) == VERSIONS_KEPT
        assert ladder.rung.state == "proved"

    story(told)
