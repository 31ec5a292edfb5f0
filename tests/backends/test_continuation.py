"""Answers that are gone on with: who may, from where, and what the client and the record see."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from backends.base import Resources
from backends.continuation import ContinuationBackend, ContinuationOptions
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling, Usage
from gateway.core.errors import (
    ContextExceeded,
    LocalUnavailable,
    TandemError,
    UpstreamBroken,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.core.events import (
    Answered,
    Event,
    Finish,
    Frame,
    PartReport,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from gateway.core.exchange import Call
from gateway.core.routing import Price, Tier, Upstream, Zone
from tests.fakes.harness import Harness, exchange, leave, run
from tests.fakes.scripted import ScriptedBackend, Step, saying, upstream

BOTH = frozenset({Endpoint.CHAT, Endpoint.COMPLETION})
CUT = UpstreamBroken("cut")


def part(name: str, *script: Step, **changes: object) -> ScriptedBackend:
    facts = {"model": "m", "continues": BOTH, **changes}
    return ScriptedBackend(upstream(name, **facts), script)


def going_on(
    *parts: ScriptedBackend, clock: Callable[[], float] = time.monotonic, **options: object
) -> ContinuationBackend:
    names = tuple(each.upstream.name for each in parts)
    made = ContinuationOptions(kind="continuation", of=names, **options)  # type: ignore[arg-type]
    resources = Resources(backends=dict(zip(names, parts, strict=True)))
    return ContinuationBackend("on", made, resources, clock=clock)


def asked(**changes: object) -> ChatRequest:
    return exchange(**changes).request  # type: ignore[arg-type]


async def heard(
    backend: ContinuationBackend, request: ChatRequest, call: Call = Call(id="t")
) -> tuple[list[Event], TandemError | None]:
    """Everything that came, and the error that ended it."""
    events: list[Event] = []
    stream = backend.stream(request, call)
    try:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - what came before an error is wanted
    except TandemError as error:
        return events, error
    finally:
        await stream.aclose()
    return events, None


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ends(events: Sequence[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, Finish)]


def reports(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(e.upstream, e.result) for e in events if isinstance(e, PartReport)]


def test_a_cut_answer_is_gone_on_with() -> None:
    """The second upstream gets what the client has, and only its rest is heard, with one finish."""
    first = part("a", Frame(frame=b"role"), TextDelta(text="one ", frame=b"x"), CUT)
    second = part("b", Frame(frame=b"role"), *saying("two"))
    events, error = run(heard(going_on(first, second), asked()))
    assert error is None
    assert (text(events), ends(events)) == ("one two", ["stop"])
    assert [request.continues for request in (*first.calls, *second.calls)] == ["", "one "]
    assert [e.upstream.name for e in events if isinstance(e, Answered)] == ["a", "b"]
    assert reports(events) == [("a", "cut")]
    assert not any(event.frame for event in events)
    assert (first.open_streams, second.open_streams) == (0, 0)


@pytest.mark.parametrize(
    "death", [CUT, UpstreamTimeout("stalled"), UpstreamBroken("an error event")]
)
def test_any_death_counts(death: TandemError) -> None:
    """A reset, a stall and an error inside the stream are all the same."""
    events, error = run(
        heard(going_on(part("a", TextDelta(text="x"), death), part("b", *saying("y"))), asked())
    )
    assert (text(events), error) == ("xy", None)


def test_usage_is_summed_and_marked() -> None:
    """The client's usage is that of both, and estimated, since the dead one did not tell."""
    first = part("a", TextDelta(text="x" * 40), CUT)
    second = part("b", *saying("y", usage=Usage(prompt_tokens=30, completion_tokens=7)))
    events, _ = run(heard(going_on(first, second), asked()))
    (report,) = [event for event in events if isinstance(event, UsageReport)]
    assert report.own == Usage(prompt_tokens=30, completion_tokens=7)
    assert report.usage == Usage(prompt_tokens=31, completion_tokens=17, estimated=True)


def test_the_record_tells() -> None:
    """Attempts say who was cut; each share costs what its upstream takes; the answer is marked."""
    dear, cheap = Price(input=1e6, output=1e6), Price(input=1, output=1)
    first = part("a", TextDelta(text="x" * 40), CUT, price=dear)
    usage = Usage(prompt_tokens=30, completion_tokens=7)
    second = part("b", *saying("y", usage=usage), price=cheap, tier=Tier.LOCAL)
    now = itertools.count(step=60.0)
    backend = going_on(first, second, clock=lambda: next(now))
    harness = Harness([backend], cache=True)  # type: ignore[list-item]
    for _ in range(2):  # nothing of it is kept
        assert run(harness.answer()) == "x" * 40 + "y"
    assert len(harness.records) == 2
    for record in harness.records:
        tried = [(attempt.upstream, attempt.result) for attempt in record.attempts]
        assert tried == [("on", "ok"), ("a", "cut")]
        assert (record.continued, record.outcome, record.tier) == (1, "ok", Tier.LOCAL)
        assert (record.usage.total_tokens, record.usage.estimated) == (48, True)
        assert record.cost_usd == pytest.approx(11 + 37e-6)
        assert record.cost_estimated


def test_a_client_that_leaves_pays_for_both() -> None:
    """Left during the second's part, usage is a guess at both shares, neither counted twice."""

    async def story() -> None:
        second = part("b", TextDelta(text="y" * 8), asyncio.Event())
        harness = Harness([going_on(part("a", TextDelta(text="x" * 40), CUT), second)])  # type: ignore[list-item]
        reply = await harness.reply()
        await leave(reply, lambda event: isinstance(event, TextDelta) and "y" in event.text)
        (record,) = harness.records
        assert (record.outcome, record.usage.completion_tokens) == ("cancelled", 12)
        assert record.usage.prompt_tokens == 2
        assert second.open_streams == 0

    run(story())


def test_at_most_twice() -> None:
    """The third cut is the end, with the error of that cut and what had been said."""
    parts = [part(name, TextDelta(text=name), CUT) for name in "abcd"]
    events, error = run(heard(going_on(*parts), asked()))
    assert isinstance(error, UpstreamBroken)
    assert (text(events), ends(events)) == ("abc", [])
    assert parts[3].calls == []


def test_who_was_cut_may_be_asked_again() -> None:
    """With two upstreams the first, back again, may go on for the second."""
    scripts = iter(
        [[TextDelta(text="one "), CUT], [TextDelta(text="three"), Finish(reason="stop")]]
    )
    first = part("a")
    first.script = lambda: next(scripts)
    events, error = run(heard(going_on(first, part("b", TextDelta(text="two "), CUT)), asked()))
    assert (text(events), error) == ("one two three", None)
    assert first.calls[1].continues == "one two "


def test_one_that_cannot_is_passed_by() -> None:
    """An upstream that refuses to go on, whatever the reason, is followed by the next."""
    refusing = part("b", ContextExceeded("too long"))
    events, error = run(
        heard(
            going_on(part("a", TextDelta(text="x"), CUT), refusing, part("c", *saying("y"))),
            asked(),
        )
    )
    assert (text(events), error) == ("xy", None)
    assert reports(events) == [("b", "failed"), ("a", "cut")]


def test_when_nobody_can_the_cut_is_told() -> None:
    """The client hears of the cut, once, and not of what was tried after it."""
    down = part("b", UpstreamUnreachable("down"))
    events, error = run(heard(going_on(part("a", TextDelta(text="x"), CUT), down), asked()))
    assert error is CUT
    assert (text(events), ends(events)) == ("x", [])


Change = Callable[[ChatRequest], ChatRequest]


def with_feature(feature: Feature) -> Change:
    return lambda request: replace(request, features=request.features | {feature})


def prefilled(request: ChatRequest) -> ChatRequest:
    turn = Message(role="assistant", text="So")
    return replace(request, messages=(*request.messages, turn))


@pytest.mark.parametrize(
    "change",
    [
        with_feature(Feature.TOOLS),
        with_feature(Feature.JSON_MODE),
        with_feature(Feature.GRAMMAR),
        with_feature(Feature.N),
        with_feature(Feature.LOGPROBS),
        prefilled,
        lambda request: replace(request, suffix="}"),
    ],
)
def test_only_plain_text_is_gone_on_with(change: Change) -> None:
    """Tools, forms, several choices, log-probabilities, holes and prefills end with the cut."""
    second = part("b", *saying("y"))
    _, error = run(heard(going_on(part("a", TextDelta(text="x"), CUT), second), change(asked())))
    assert error is CUT
    assert second.calls == []


@pytest.mark.parametrize(
    "said", [ReasoningDelta(text="hm"), ToolCallDelta(name="f"), TextDelta(text="x", choice=1)]
)
def test_thoughts_and_calls_are_not(said: Event) -> None:
    """What a model thought, called or said beside is nothing that another can go on with."""
    second = part("b", *saying("y"))
    script = [said, TextDelta(text="x"), CUT]
    _, error = run(heard(going_on(part("a", *script), second), asked()))
    assert error is CUT
    assert second.calls == []


def test_the_same_model_only() -> None:
    """Another model goes on by permission only; several names of one by the operator's word."""

    def story(**options: bool) -> TandemError | None:
        first = part("a", TextDelta(text="x"), CUT)
        second = part("b", *saying("y"), model="another")
        error: TandemError | None = run(heard(going_on(first, second, **options), asked()))[1]
        return error

    assert story() is CUT
    assert story(same_model=True) is None
    assert story(other_models=True) is None
    nameless = [part("a", TextDelta(text="x"), CUT, model=""), part("b", *saying(""), model="")]
    assert run(heard(going_on(*nameless), asked()))[1] is CUT


def test_only_who_knows_how() -> None:
    """An upstream without a way to be asked for a rest is not asked; as a fallback it is."""
    second = part("b", *saying("y"), continues=frozenset({Endpoint.COMPLETION}))
    assert run(heard(going_on(part("a", TextDelta(text="x"), CUT), second), asked()))[1] is CUT
    events, error = run(heard(going_on(part("a", CUT), second), asked()))
    assert (text(events), error) == ("y", None)


def test_never_beyond_the_zone() -> None:
    """Upstreams outside the request's zone are not asked, first or last."""
    near = part("a", TextDelta(text="x"), CUT, zone=Zone.MACHINE)
    far = part("b", *saying("y"))
    backend = going_on(near, far)
    assert backend.upstream.zone is Zone.PUBLIC
    here = Call(id="t", zone=Zone.MACHINE)
    assert run(heard(backend, asked(), here))[1] is CUT
    assert far.calls == []
    assert isinstance(run(heard(going_on(far, far), asked(), here))[1], LocalUnavailable)


def test_before_the_first_word_it_is_a_fallback() -> None:
    """A first that fails, or says nothing, is replaced; after a fault of the client's nobody is."""
    for failing in ([CUT], [Frame()], [Frame(), CUT]):
        second = part("b", *saying("y"))
        events, error = run(heard(going_on(part("a", *failing), second), asked()))
        assert (text(events), error, reports(events)) == ("y", None, [("a", "failed")])
        assert second.calls[0].continues == ""
    second = part("b", *saying("y"))
    _, error = run(heard(going_on(part("a", UpstreamRejected("no")), second), asked()))
    assert isinstance(error, UpstreamRejected)
    assert second.calls == []


def test_who_failed_is_asked_last_for_a_while() -> None:
    """Answers after a cut do not wait for the same upstream, until it has rested."""
    now = 0.0
    first = part("a", TextDelta(text="x"), CUT)
    second = part("b", *saying("y"))
    backend = going_on(first, second, clock=lambda: now)
    for _ in range(2):
        run(heard(backend, asked()))
    assert (len(first.calls), len(second.calls)) == (1, 2)
    now = 5.1
    run(heard(backend, asked()))
    assert len(first.calls) == 2


def test_a_whole_answer_needs_nobody() -> None:
    """A cut between the finish and the usage is no cut for the client."""
    second = part("b", *saying("y"))
    first = part("a", TextDelta(text="x"), Finish(reason="stop"), CUT)
    events, error = run(heard(going_on(first, second), asked()))
    assert (text(events), ends(events), error) == ("x", ["stop"], None)
    assert second.calls == []


def test_what_the_limits_leave() -> None:
    """Told tokens are taken from max_tokens, untold ones by their bytes; the rest is kept."""
    sampling = Sampling(temperature=0.5, seed=7, max_tokens=20, min_tokens=10)
    body = {"max_tokens": None, "max_completion_tokens": 20, "min_tokens": 10, "seed": 7}
    for said, left in ((TextDelta(text="x" * 40, tokens=4), 16), (TextDelta(text="x" * 41), 9)):
        second = part("b", *saying("y"))
        run(heard(going_on(part("a", said, CUT), second), asked(sampling=sampling, body=body)))
        (request,) = second.calls
        least = max(0, left - 10)
        assert request.sampling == replace(sampling, max_tokens=left, min_tokens=least)
        changed = {"max_completion_tokens": left, "min_tokens": least}
        assert request.body == {**body, **changed}
        assert request.stream


def test_at_the_limit_nobody_is_asked() -> None:
    """All tokens said and only the finish lost: that is `length`, as it would have been."""
    first = part("a", TextDelta(text="abc", tokens=5), CUT)
    second = part("b", *saying("y"))
    sampling = Sampling(max_tokens=5, stop=("cd",))
    events, error = run(heard(going_on(first, second), asked(sampling=sampling)))
    assert (text(events), ends(events), error) == ("abc", ["length"], None)
    assert second.calls == []


def test_a_stop_string_across_the_cut() -> None:
    """What may begin a stop string is not shown, and whoever goes on says it again."""
    first = part("a", TextDelta(text="so E"), TextDelta(text="N"), CUT)
    second = part("b", Finish(reason="stop"))
    sampling = Sampling(stop=("END",))
    events, error = run(heard(going_on(first, second), asked(sampling=sampling)))
    assert (text(events), ends(events), error) == ("so ", ["stop"], None)
    assert second.calls[0].continues == "so "
    whole = part("a", TextDelta(text="E"), TextDelta(text="Nd"), TextDelta(text="EN"), *saying())
    events, _ = run(heard(going_on(whole, second), asked(sampling=sampling)))
    assert text(events) == "ENdEN"


def test_a_deadline_that_has_passed_is_the_end() -> None:
    """Nobody is asked to go on for a client that has given up."""
    second = part("b", *saying("y"))
    late = Call(id="t", deadline=0.0)
    first = part("a", TextDelta(text="x"), UpstreamTimeout("late"))
    assert isinstance(run(heard(going_on(first, second), asked(), late))[1], UpstreamTimeout)
    assert second.calls == []


def test_a_combination_of_no_use_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """At the start an operator hears that none of the upstreams can go on for another."""

    def warned(facts: Upstream) -> bool:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            asyncio.run(going_on(part("a"), ScriptedBackend(facts)).start())
        return bool(caplog.messages)

    fit = part("b").upstream
    assert not warned(fit)
    assert warned(replace(fit, model="another"))
