"""Races: who wins, who is stopped, what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from backends.base import Resources
from backends.race import RaceBackend, RaceOptions
from gateway.core.chat import Feature
from gateway.core.errors import TandemError, UpstreamFailed, UpstreamRejected
from gateway.core.events import Answered, Event, Finish, Frame, PartReport, TextDelta
from gateway.core.exchange import Call
from gateway.core.routing import Price, Tier, Zone
from tests.fakes.harness import Harness, exchange, run
from tests.fakes.scripted import ScriptedBackend, Step, saying, upstream

PRICE = Price(input=10.0, output=10.0)


def race(*parts: ScriptedBackend, **options: object) -> RaceBackend:
    names = tuple(part.upstream.name for part in parts)
    made = RaceOptions(kind="race", of=names, **{"after": 0.02, **options})  # type: ignore[arg-type]
    return RaceBackend("quick", made, Resources(backends=dict(zip(names, parts, strict=True))))


async def events(backend: RaceBackend, **changes: object) -> list[Event]:
    stream = backend.stream(exchange(**changes).request, Call(id="t"))  # type: ignore[arg-type]
    try:
        return [event async for event in stream]
    finally:
        await stream.aclose()


def text(said: Sequence[Event]) -> str:
    return "".join(event.text for event in said if isinstance(event, TextDelta))


def slow(name: str, *, priced: bool = True) -> ScriptedBackend:
    """One that never begins."""
    price = PRICE if priced else None
    return ScriptedBackend(upstream(name, price=price), [Frame(frame=b"role"), asyncio.Event()])


def quick(name: str, script: Sequence[Step] | None = None) -> ScriptedBackend:
    return ScriptedBackend(upstream(name, price=PRICE), script or saying(name))


def test_the_second_answers_when_the_first_is_slow() -> None:
    """The copy wins, the slow one is stopped and billed, and nothing it said is heard."""
    first, second = slow("a"), quick("b")
    said = run(events(race(first, second)))
    assert text(said) == "b"
    assert isinstance(said[0], Answered) and said[0].upstream.name == "b"
    (report,) = [event for event in said if isinstance(event, PartReport)]
    assert (report.upstream, report.result) == ("a", "cancelled")
    assert report.cost_usd is not None and report.cost_usd > 0
    assert not any(isinstance(event, Frame) for event in said)
    assert (first.open_streams, second.open_streams) == (0, 0)


def test_a_first_that_begins_in_time_is_alone() -> None:
    """No copy is sent when the first begins."""
    first, second = quick("a"), quick("b")
    assert text(run(events(race(first, second, after=5)))) == "a"
    assert second.calls == []


@pytest.mark.parametrize(
    "loser",
    [
        [UpstreamFailed("500")],
        [Frame(frame=b"x")],
        [Finish(reason="stop")],
        [TextDelta(text=""), Finish(reason="stop")],
        [Frame(frame=b"x"), UpstreamFailed("cut")],
    ],
)
def test_only_content_wins(loser: Sequence[Step]) -> None:
    """An error, an empty answer and a stream of nothing never win, however early they come."""
    said = run(events(race(quick("a", loser), quick("b"), after=5)))
    assert text(said) == "b"
    assert [e.result for e in said if isinstance(e, PartReport)][0] in ("failed", "empty")


def test_an_empty_answer_of_all_is_an_answer() -> None:
    """If nobody has anything to say, the first who ended well is believed."""
    said = run(events(race(quick("a", [Finish(reason="stop")]), quick("b", [UpstreamFailed("x")]))))
    assert [event.reason for event in said if isinstance(event, Finish)] == ["stop"]


def test_the_last_error_is_told() -> None:
    """When all fail the client hears the last of it; what no other can mend ends it at once."""
    failing = [quick(name, [UpstreamFailed(name)]) for name in ("first", "second")]
    with pytest.raises(UpstreamFailed, match="second"):
        run(events(race(*failing)))
    never = quick("b")
    with pytest.raises(UpstreamRejected):
        run(events(race(quick("a", [UpstreamRejected("no")]), never, after=5)))
    assert never.calls == []


def test_a_client_that_leaves_stops_all() -> None:
    """Closing the stream before anybody began leaves nothing running."""
    first, second = slow("a"), slow("b")

    async def story() -> None:
        stream = race(first, second).stream(exchange().request, Call(id="t"))
        waiting = asyncio.ensure_future(anext(stream))
        while not (first.calls and second.calls):
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        assert (first.open_streams, second.open_streams) == (0, 0)

    run(story())


@pytest.mark.parametrize("feature", [Feature.TOOLS, Feature.N])
def test_tools_and_choices_are_not_copied(feature: Feature) -> None:
    """What may have effects, or costs several answers, is asked once."""
    gate = asyncio.Event()
    first = ScriptedBackend(upstream("a"), [gate, *saying("a")])
    second = quick("b")

    async def story() -> str:
        asked = asyncio.ensure_future(
            events(race(first, second), features=frozenset({Feature.CHAT, feature}))
        )
        await asyncio.sleep(0.1)
        gate.set()
        return text(await asked)

    assert run(story()) == "a"
    assert second.calls == []


def test_the_cap_ends_copies() -> None:
    """Past the cap no copy is sent, within it some are; without prices none under a cap."""

    async def story(cap: float, *, priced: bool) -> int:
        first, second = slow("a", priced=priced), quick("b")
        backend = race(first, second, spend_cap_usd_per_hour=cap)
        for _ in range(3):
            try:
                async with asyncio.timeout(0.2):
                    await events(backend)
            except TimeoutError:
                pass
        return len(second.calls)

    assert run(story(1.0, priced=True)) == 3
    assert run(story(1e-9, priced=True)) == 1
    assert run(story(1.0, priced=False)) == 0


def test_facts_are_those_of_all() -> None:
    """A race reaches as far as its farthest part and can what all of them can."""
    chats = frozenset({Feature.CHAT})
    near = ScriptedBackend(
        upstream("a", zone=Zone.MACHINE, tier=Tier.LOCAL, context=100, features=chats)
    )
    far = ScriptedBackend(upstream("b", context=50))
    facts = race(near, far).upstream
    assert (facts.zone, facts.tier, facts.context) == (Zone.PUBLIC, Tier.CLOUD, 50)
    assert facts.features == {Feature.CHAT}


def test_the_record_tells_the_race() -> None:
    """Through the pipeline: tier and cost are the winner's, the loser's share is added."""
    first, second = slow("a"), quick("b")
    raced = race(first, second)
    harness = Harness([raced])  # type: ignore[list-item]
    assert run(harness.answer()) == "b"
    (record,) = harness.records
    assert (record.upstream, record.upstream_model) == ("quick", "b-model")
    attempts = [(attempt.upstream, attempt.result) for attempt in record.attempts]
    assert attempts == [("quick", "ok"), ("a", "cancelled")]
    assert record.cost_usd is not None and record.cost_usd > (PRICE.of(record.usage) or 0)
    assert record.cost_estimated


def test_all_lost_is_an_upstream_error() -> None:
    """A race that nobody wins raises what the tree knows."""
    with pytest.raises(TandemError):
        run(events(race(quick("a", [Frame()]), quick("b", [Frame()]))))


def test_a_race_ignores_what_any_part_would() -> None:
    """Nobody knows who will win: a field counts as honoured only where all of them honour it."""
    first = ScriptedBackend(upstream("a", honours=frozenset({"x", "y"})), saying("a"))
    second = ScriptedBackend(upstream("b", ignores=frozenset({"z"})), saying("b"))
    facts = race(first, second).upstream
    assert facts.honours == {"x", "y"}
    assert facts.ignores == {"z"}
    assert race(second, quick("c")).upstream.honours is None


def test_a_local_loser_costs_nothing() -> None:
    """A local part without a price that loses leaves the race's cost known."""
    first = ScriptedBackend(upstream("a", tier=Tier.LOCAL), [Frame(frame=b"role"), asyncio.Event()])
    said = run(events(race(first, quick("b"))))
    (report,) = [event for event in said if isinstance(event, PartReport)]
    assert report.cost_usd == 0


def test_it_costs_at_most_what_the_dearest_does() -> None:
    """So routing compares it by the worst case; who runs with an unknown price has none either."""
    dear = upstream("dear", price=Price(input=20.0, output=5.0, listed=True))
    both = race(quick("a"), ScriptedBackend(dear, saying("b")))
    assert both.upstream.price == Price(input=20.0, output=10.0, listed=True)
    assert race(quick("a"), slow("b", priced=False)).upstream.price is None
