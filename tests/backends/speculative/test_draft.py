"""The edge's drafter: it proposes early, follows the target, and may die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.engine.protocol import Job
from backends.speculative.draft import Drafter
from backends.speculative.session import Draft
from gateway.core.errors import EngineFailed
from tests.fakes.clock import FakeClock
from tests.fakes.toy_pair import ToyEngine, knowing

SENTENCE = "the cat sat on the mat"
JOB = Job(id=0, tokens=(1, 2), max_tokens=100, role="draft", ahead=4)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Wire:
    """Where a drafter's proposals end up."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.clock = FakeClock()

    async def send(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.clock.advance(0.5)

    @property
    def text(self) -> str:
        return "".join(bytes(draft.tokens).decode() for draft in self.drafts)

    def drafter(self, engine: ToyEngine) -> Drafter:
        return Drafter(engine, JOB, send=self.send, clock=self.clock)


def test_it_leads_by_ahead_and_no_further() -> None:
    """Without a word from the target it stops `ahead` tokens into the future."""

    async def scenario() -> None:
        wire, engine = Wire(), ToyEngine([], knowing(SENTENCE))
        drafter = wire.drafter(engine)
        await until(lambda: len(wire.drafts) == 4)
        drafter.committed(0, 0, tuple(b"the"))
        await until(lambda: len(wire.drafts) == 7)
        assert wire.text == "the cat"
        await drafter.aclose()
        assert engine.sequences[0].closed
        assert not drafter.lost

    asyncio.run(scenario())


def test_it_counts_only_its_own_time() -> None:
    """Seconds a token are those it was free to draft in, not those it waited for the target."""

    async def scenario() -> None:
        wire, engine = Wire(), ToyEngine([], knowing(SENTENCE))
        drafter = wire.drafter(engine)
        await until(lambda: len(wire.drafts) == 4)
        wire.clock.advance(1000)
        drafter.committed(0, 0, tuple(b"the "))
        await until(lambda: len(wire.drafts) == 8)
        assert drafter.draft_s == 0.5
        await drafter.aclose()

    asyncio.run(scenario())


def test_it_takes_the_targets_turn() -> None:
    """A commit that disagrees sends it back, under a new epoch."""

    async def scenario() -> None:
        wire, engine = Wire(), ToyEngine([], knowing(SENTENCE))
        drafter = wire.drafter(engine)
        await until(lambda: len(wire.drafts) == 4)
        drafter.committed(1, 0, tuple(b"a"))
        await until(lambda: len(wire.drafts) == 8)
        assert [draft.base_pos for draft in wire.drafts] == [0, 1, 2, 3, 1, 2, 3, 4]
        assert {draft.epoch for draft in wire.drafts[4:]} == {1}
        await drafter.aclose()

    asyncio.run(scenario())


def test_commits_before_it_stands_are_not_lost() -> None:
    """What the target settled while the drafter's engine was still queueing is caught up with."""

    async def scenario() -> None:
        wire, engine = Wire(), ToyEngine([], knowing(SENTENCE))
        drafter = wire.drafter(engine)
        drafter.committed(0, 0, tuple(b"the"))
        drafter.committed(0, 3, tuple(b" cat"))
        await until(lambda: len(wire.drafts) == 4)
        assert wire.text == " sat"
        await drafter.aclose()

    asyncio.run(scenario())


def test_it_dies_quietly() -> None:
    """An engine that refuses or dies makes a drafter that is lost, not an error."""

    async def scenario() -> None:
        refusing, dying = ToyEngine([], knowing(SENTENCE)), ToyEngine([], knowing(SENTENCE))
        refusing.refuse = EngineFailed("no worker")
        dying.fail_at = (2, EngineFailed("killed"))
        for engine, sent in ((refusing, 0), (dying, 2)):
            wire = Wire()
            drafter = wire.drafter(engine)
            await until(lambda d=drafter: d.lost)  # type: ignore[misc]
            drafter.committed(0, 0, (5,))
            assert len(wire.drafts) == sent
            await drafter.aclose()
        assert dying.sequences[0].closed

    asyncio.run(scenario())
