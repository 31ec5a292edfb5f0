"""A client may leave at any step of the loop: whatever was begun for it has ended then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from backends.base import Backend, Resources
from backends.cascade import CascadeBackend, CascadeOptions
from backends.continuation import ContinuationBackend, ContinuationOptions
from backends.race import RaceBackend, RaceOptions
from backends.review import ReviewBackend, ReviewOptions
from gateway.core.chat import ChatRequest, TokenLogprob
from gateway.core.errors import UpstreamFailed
from gateway.core.events import Event, Finish, Frame, TextDelta
from gateway.core.exchange import Call
from tests.fakes.harness import Harness, Kept, exchange, run
from tests.fakes.scripted import ScriptedBackend, Step, saying, upstream

ENOUGH = 400
"""Steps of the loop within which every answer here ends by itself."""


class Hesitant(ScriptedBackend):
    """One that takes a turn of the loop before each event, and another to close."""

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.open_streams += 1
        try:
            async for event in super().stream(request, call):
                await asyncio.sleep(0)
                yield event
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.open_streams -= 1


def part(name: str, script: Sequence[Step]) -> Hesitant:
    return Hesitant(upstream(name, model="m", continues=frozenset({"chat"})), script)


def token(text: str, sure: float) -> TextDelta:
    said = TokenLogprob(data=text.encode(), logprob=sure, top=())
    return TextDelta(text=text, tokens=1, logprobs=(said,))


DIES: list[Step] = [TextDelta(text="one "), TextDelta(text="two "), UpstreamFailed("gone")]
Made = tuple[list[Backend], list[Hesitant]]


def plain() -> Made:
    parts = [part("a", [UpstreamFailed("no")]), part("b", saying("one", "two"))]
    return [*parts], parts


def race(*scripts: Sequence[Step]) -> Made:
    parts = [part(name, script) for name, script in zip("abc", scripts, strict=False)]
    names = tuple(each.upstream.name for each in parts)
    options = RaceOptions(kind="race", of=names, after=0.0)
    return [RaceBackend("whole", options, resources(parts))], parts


def lagging(steps: int) -> Made:
    """By one of these both begin in the same turn of the loop."""
    lag: list[Step] = [Frame(frame=b"")] * steps
    return race([*lag, *saying("a", "b")], saying("c", "d"))


def continuation() -> Made:
    parts = [part("a", DIES), part("b", saying("three"))]
    options = ContinuationOptions(kind="continuation", of=("a", "b"))
    return [ContinuationBackend("whole", options, resources(parts))], parts


def cascade(sure: float, **options: Any) -> Made:
    drafted: list[Step] = [token("one ", sure), token("two", sure), Finish(reason="stop")]
    parts = [part("a", drafted), part("b", saying("strong", "words"))]
    made = CascadeOptions(kind="cascade", draft="a", strong="b", **options)
    return [CascadeBackend("whole", made, resources(parts))], parts


def review(verdict: str) -> Made:
    parts = [part("a", saying("one ", "two")), part("b", saying(verdict, "\n"))]
    options = ReviewOptions(kind="review", draft="a", target="b")
    return [ReviewBackend("whole", options, resources(parts))], parts


def resources(parts: Sequence[Hesitant]) -> Resources:
    return Resources(backends={each.upstream.name: each for each in parts})


SHAPES: dict[str, Callable[[], Made]] = {
    "fallback": plain,
    "race": lambda: race(saying("a", "b"), saying("c", "d")),
    "race of one that dies": lambda: race(DIES[-1:], saying("c"), saying("d", "e")),
    **{f"race, {lag} steps apart": partial(lagging, lag) for lag in range(1, 6)},
    "continuation": continuation,
    "cascade, kept": lambda: cascade(-0.001),
    "cascade, escalated": lambda: cascade(-5.0),
    "cascade, second opinion": lambda: cascade(-0.001, second="a"),
    "review": lambda: review("ACCEPT"),
    "review, unreadable": lambda: review("Well."),
}


async def leaves(shape: Callable[[], Made], steps: Sequence[int], *, reads: bool) -> bool:
    """A client that is cancelled after so many steps, and once more after so many further ones;
    whether its answer had not ended by then.
    """
    before = asyncio.all_tasks()
    backends, parts = shape()
    harness = Harness(backends)  # type: ignore[arg-type]
    await harness.fleet.look()

    async def client() -> None:
        reply = await harness.pipeline.answer(exchange(stream=True))
        try:
            if reads:
                await reply.events.into(Kept())
        finally:
            await reply.events.aclose()

    asking = asyncio.create_task(client())
    cut = False
    for count in steps:
        for _ in range(count):
            await asyncio.sleep(0)
        cut |= not asking.done()
        asking.cancel()
    await asyncio.wait([asking])
    assert harness.admission.inside == 0
    assert set(harness.fleet.in_flight().values()) == {0}
    for vitals in harness.fleet.vitals().values():
        assert vitals.waiting == 0
    (record,) = harness.records
    assert record.outcome in ("ok", "cancelled")
    assert [p.open_streams for p in parts] == [0] * len(parts)
    assert asyncio.all_tasks() == before
    return cut


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("again", [[], [1], [2]])
def test_leaving_at_any_step(name: str, reads: bool, again: list[int]) -> None:
    """After a cancellation at the first, second, … step of an answer, up to its end, no stream is
    open, nothing is in flight, the permit is back, no task runs and there is one record; so also
    if it is cancelled once more while it ends.
    """

    async def story() -> int:
        for k in range(1, ENOUGH):
            if not await leaves(SHAPES[name], [k, *again], reads=reads):
                return k
        raise AssertionError("it never ended")

    assert run(story()) > 2
