"""The hot path, driven with scripted backends: who is asked, what is held, what is recorded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.chat import Feature, Message, Usage
from gateway.core.errors import (
    ContextExceeded,
    LocalUnavailable,
    NotFound,
    TandemError,
    Unavailable,
    Unsupported,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamUnreachable,
)
from gateway.core.events import Finish, Frame, TextDelta
from gateway.core.exchange import Caller
from gateway.core.routing import Price, Tier, Zone
from gateway.plan import Alias
from router_policies.base import Settings
from router_policies.static import StaticPolicy
from tests.fakes.harness import Harness, Kept, leave, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream


def test_answers_from_the_first_candidate() -> None:
    """The route's first upstream answers, and one record says so."""
    harness = Harness([ScriptedBackend(upstream("a"), saying("hel", "lo"))])
    assert run(harness.answer()) == "hello"
    (record,) = harness.records
    assert (record.upstream, record.outcome, record.tier) == ("a", "ok", Tier.CLOUD)
    assert record.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert record.finish_reason == "stop"
    assert harness.admission.inside == 0


def test_falls_back_before_the_first_content() -> None:
    """An upstream that fails before it said anything is replaced, and nobody sees its frames."""
    broken = ScriptedBackend(upstream("a"), [Frame(frame=b"role"), UpstreamFailed("500")])
    good = ScriptedBackend(upstream("b"), saying("fine"))
    harness = Harness([broken, good])
    assert run(harness.answer()) == "fine"
    (record,) = harness.records
    assert record.reason == "fallback"
    assert [attempt.result for attempt in record.attempts] == ["5xx", "ok"]
    assert broken.open_streams == 0


def test_never_two_voices() -> None:
    """After the first content a failure is the client's to see: no other upstream speaks."""
    cut = ScriptedBackend(upstream("a"), [TextDelta(text="half"), UpstreamBroken("cut")])
    other = ScriptedBackend(upstream("b"), saying("whole"))
    harness = Harness([cut, other])
    with pytest.raises(UpstreamBroken):
        run(harness.answer())
    assert other.calls == []
    assert harness.records[0].outcome == "truncated"


def test_a_rejected_request_is_not_tried_elsewhere() -> None:
    """A 400 of the upstream is the client's fault and ends the matter."""
    strict = ScriptedBackend(upstream("a"), [UpstreamRejected("bad", status=422)])
    other = ScriptedBackend(upstream("b"), saying("no"))
    harness = Harness([strict, other])
    with pytest.raises(UpstreamRejected):
        run(harness.answer())
    assert other.calls == []


def test_an_end_without_finish_is_truncation() -> None:
    """A stream that stops without a finish reason is an error, whatever it said."""
    harness = Harness([ScriptedBackend(upstream("a"), [TextDelta(text="hm")])])
    with pytest.raises(UpstreamBroken):
        run(harness.answer())
    assert harness.records[0].outcome == "truncated"


def test_silence_falls_back() -> None:
    """Frames without content do not commit: an upstream that then ends is replaced."""
    silent = ScriptedBackend(upstream("a"), [Frame(frame=b"x")] * 3)
    harness = Harness([silent, ScriptedBackend(upstream("b"), saying("ok"))])
    assert run(harness.answer()) == "ok"


def test_endless_empty_frames_fall_back() -> None:
    """An upstream may not have us hold more than a bounded number of frames."""
    chatter = ScriptedBackend(upstream("a"), [Frame(frame=b"x")] * 200)
    harness = Harness([chatter, ScriptedBackend(upstream("b"), saying("ok"))])
    assert run(harness.answer()) == "ok"


@pytest.mark.parametrize("model", ["auto", "cloud"])
def test_zone_removes_candidates_even_for_a_pin(model: str) -> None:
    """A machine-zone request never reaches a public upstream, named or not."""
    cloud = ScriptedBackend(upstream("cloud"), saying("leak"))
    harness = Harness([cloud])
    with pytest.raises(LocalUnavailable) as caught:
        run(harness.answer(model, caller=Caller(zone=Zone.MACHINE)))
    assert caught.value.code == "local_unavailable"
    assert cloud.calls == []
    assert harness.records[0].outcome == "policy_blocked"


def test_header_tightens_the_zone() -> None:
    """x-tandem-zone: machine keeps a request here; a fallback does not leave either."""
    local = ScriptedBackend(
        upstream("local", zone=Zone.MACHINE, tier=Tier.LOCAL), [UpstreamUnreachable("down")]
    )
    cloud = ScriptedBackend(upstream("cloud"), saying("leak"))
    harness = Harness([local, cloud])
    with pytest.raises(UpstreamUnreachable):
        run(harness.answer(headers={"x-tandem-zone": "machine"}))
    assert cloud.calls == []


def test_a_policy_cannot_widen_the_zone() -> None:
    """Even a policy that invents a candidate outside the zone is stopped before it is opened."""
    cloud = ScriptedBackend(upstream("cloud"), saying("leak"))
    local = ScriptedBackend(upstream("local", zone=Zone.MACHINE), saying("here"))
    harness = Harness([local, cloud])

    class Rogue:
        name = "rogue"

        def choose(self, facts: Any, candidates: Any) -> Any:
            route = StaticPolicy(Settings()).choose(facts, candidates)
            assert route is not None
            return replace(route, candidates=harness.fleet.snapshot(["cloud"]))

    book = harness.pipeline.planner.rulebook
    harness.pipeline.planner.rulebook = replace(
        book, aliases={"auto": Alias(candidates=("local", "cloud"), policy=Rogue())}
    )
    with pytest.raises(LocalUnavailable):
        run(harness.answer(headers={"x-tandem-zone": "machine"}))
    assert cloud.calls == []


def test_unknown_model_is_404() -> None:
    """A name that is neither alias nor upstream is not guessed at."""
    with pytest.raises(NotFound) as caught:
        run(Harness([ScriptedBackend(upstream("a"))]).answer("gpt-9"))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_missing_ability_names_the_parameter() -> None:
    """A parameter that no candidate honours is a 400 that names it."""
    bare = ScriptedBackend(upstream("a", features=frozenset({Feature.CHAT})), saying("x"))
    features = frozenset({Feature.CHAT, Feature.TOOLS})
    with pytest.raises(Unsupported) as caught:
        run(Harness([bare]).answer(features=features))
    assert caught.value.param == "tools"


def test_counts_only_when_bytes_exceed_the_context() -> None:
    """The tokenizer is asked when bytes cannot tell, and its count decides."""
    long = "x" * 100
    small = ScriptedBackend(upstream("a", context=64, prompt_ceiling=True), saying("x"), tokens=99)
    message = Message(role="user", text=long, raw={"role": "user", "content": long})
    with pytest.raises(ContextExceeded) as caught:
        run(Harness([small]).answer(messages=(message,)))
    assert caught.value.code == "context_length_exceeded"
    fits = ScriptedBackend(upstream("a", context=64, prompt_ceiling=True), saying("x"), tokens=9)
    assert run(Harness([fits]).answer(messages=(message,))) == "x"


def test_closing_early_frees_everything() -> None:
    """A client that leaves closes the upstream's stream, frees the permit, leaves a record."""

    async def story() -> None:
        gate = asyncio.Event()
        slow = ScriptedBackend(upstream("a"), [TextDelta(text="one"), gate, *saying("two")])
        harness = Harness([slow])
        reply = await harness.reply()
        assert harness.admission.inside == 1
        await leave(reply, lambda event: isinstance(event, TextDelta))
        assert len(harness.records) == 1
        assert (slow.open_streams, harness.admission.inside) == (0, 0)
        assert harness.records[0].outcome == "cancelled"
        assert harness.fleet.in_flight() == {"a": 0}

    run(story())


def test_closing_unread_frees_everything() -> None:
    """An answer that nobody has begun to read is settled by its closing, once."""

    async def story() -> None:
        backend = ScriptedBackend(upstream("a"), saying("one"))
        harness = Harness([backend], cache=True)
        for _ in range(2):  # the second time, had it been read, it would come from the cache
            reply = await harness.reply()
            await reply.events.aclose()
            await reply.events.aclose()
        assert await harness.answer() == "one"
        reply = await harness.reply()
        assert reply.record.cache == "hit"
        await reply.events.aclose()
        assert (backend.open_streams, harness.admission.inside) == (0, 0)
        ends = [record.outcome for record in harness.records]
        assert ends == ["cancelled", "cancelled", "ok", "cancelled"]

    run(story())


def test_a_client_that_is_behind_is_waited_for() -> None:
    """No further event is asked for while the sink is full."""

    async def story() -> None:
        backend = ScriptedBackend(upstream("a"), saying("one"))
        reply, kept = await Harness([backend]).reply(), Kept()
        kept.behind = True
        going = asyncio.create_task(reply.events.into(kept))
        while not kept.waited:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(kept.events) == 1
        kept.behind = False
        await going
        assert len(kept.events) > 1

    run(story())


def test_cancelled_while_opening_frees_everything() -> None:
    """A request cancelled before its first content gives its permit and its stream back."""

    async def story() -> None:
        stuck = ScriptedBackend(upstream("a"), [asyncio.Event(), *saying("never")])
        harness = Harness([stuck])
        task = asyncio.create_task(harness.reply())
        while not stuck.open_streams:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (stuck.open_streams, harness.admission.inside) == (0, 0)
        assert harness.records[0].outcome == "cancelled"

    run(story())


def test_admission_refuses_above_its_limit() -> None:
    """The fifth of four concurrent requests gets a 429, with a record of its own."""

    async def story() -> None:
        gate = asyncio.Event()
        harness = Harness([ScriptedBackend(upstream("a"), [TextDelta(text="1"), gate])])
        replies = [await harness.reply() for _ in range(4)]
        with pytest.raises(TandemError) as caught:
            await harness.reply()
        assert caught.value.status == 429
        for reply in replies:
            await reply.events.aclose()
        assert harness.admission.inside == 0
        assert len(harness.records) == 5

    run(story())


def test_breaker_rests_an_upstream_and_probes_it_once() -> None:
    """Five failures open the breaker; after its pause one request probes, and success closes it."""

    async def story() -> None:
        flaky = ScriptedBackend(upstream("a"), [UpstreamUnreachable("refused")])
        harness = Harness([flaky])
        for _ in range(5):
            with pytest.raises(UpstreamUnreachable):
                await harness.reply()
        with pytest.raises(Unavailable):
            await harness.reply()
        assert len(flaky.calls) == 5
        harness.now += 6
        flaky.script = saying("back")
        assert await harness.answer() == "back"
        assert await harness.answer() == "back"

    run(story())


def test_second_equal_request_comes_from_the_cache() -> None:
    """A greedy request repeated is answered by the cache, at no cost and with what it saved."""
    price = Price(input=1.0, output=1.0)
    backend = ScriptedBackend(upstream("a", price=price), saying("kept"))
    harness = Harness([backend], cache=True)

    async def story() -> None:
        assert await harness.answer() == "kept"
        assert await harness.answer() == "kept"

    run(story())
    first, second = harness.records
    assert (first.cache, second.cache) == ("miss", "hit")
    assert second.tier is Tier.CACHE
    assert len(backend.calls) == 1
    assert second.cost_usd == 0.0
    assert second.avoided_usd == first.cost_usd == pytest.approx(4e-6)


def test_no_store_is_obeyed() -> None:
    """Cache-Control: no-store keeps an answer out of the cache."""
    backend = ScriptedBackend(upstream("a"), saying("secret"))
    harness = Harness([backend], cache=True)

    async def story() -> None:
        await harness.answer(headers={"cache-control": "no-store"})
        await harness.answer()

    run(story())
    assert len(backend.calls) == 2


def test_a_cut_answer_is_not_kept() -> None:
    """Only an answer that ended well is served again."""
    cut = ScriptedBackend(upstream("a"), [TextDelta(text="ha"), Finish(reason="content_filter")])
    harness = Harness([cut], cache=True)

    async def story() -> None:
        await harness.answer()
        await harness.answer()

    run(story())
    assert len(cut.calls) == 2


def test_unknown_price_is_not_zero() -> None:
    """A cloud answer without a price has no known cost; a local one costs nothing."""
    cloud = Harness([ScriptedBackend(upstream("a"), saying("x"))])
    run(cloud.answer())
    assert (cloud.records[0].cost_usd, cloud.records[0].cost_known) == (None, False)
    local = Harness([ScriptedBackend(upstream("a", tier=Tier.LOCAL), saying("x"))])
    run(local.answer())
    assert (local.records[0].cost_usd, local.records[0].cost_known) == (0.0, True)


def test_unread_fields_are_announced() -> None:
    """Fields that a local model will not see are named; where the body is carried, none is."""
    extra = {"mirostat": 2, "user": "me", "bad\r\nname": 1}
    local = Harness([ScriptedBackend(upstream("a"), saying("x"))])
    run(local.answer(extra=extra))
    assert local.records[0].ignored == ("mirostat",)
    carried = Harness([ScriptedBackend(upstream("a", carries_body=True), saying("x"))])
    run(carried.answer(extra=extra))
    assert carried.records[0].ignored == ()
