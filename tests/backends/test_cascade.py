"""Cascades: when a draft is kept, when another answers, and what the client hears of it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Resources
from backends.cascade import ENOUGH, CascadeBackend, CascadeOptions, _Share
from gateway.core.chat import Endpoint, Feature, TokenLogprob, Usage
from gateway.core.errors import EngineFailed, InvalidRequest, TandemError, UpstreamFailed
from gateway.core.events import (
    Answered,
    CascadeReport,
    Event,
    Finish,
    Frame,
    PartReport,
    TextDelta,
    UsageReport,
)
from gateway.core.exchange import Call
from gateway.core.routing import Price
from tests.fakes.harness import exchange, run
from tests.fakes.scripted import ScriptedBackend, Step, saying, upstream

PRICE = Price(input=10.0, output=10.0)
SURE, UNSURE = 0.999, 0.3


def told(text: str, probability: float = SURE) -> TextDelta:
    """One token, as sure as this, beside one that takes the rest."""
    pair = (probability, 1 - probability)
    top = tuple(TokenLogprob(data=b"x", logprob=math.log(p)) for p in sorted(pair)[::-1])
    said = TokenLogprob(data=text.encode(), logprob=math.log(probability), top=top)
    return TextDelta(text=text, tokens=1, logprobs=(said,))


def drafting(*steps: Step) -> ScriptedBackend:
    return ScriptedBackend(upstream("small"), steps)


def draft(*texts: str, sure: float = SURE) -> ScriptedBackend:
    usage = UsageReport(usage=Usage(prompt_tokens=3, completion_tokens=len(texts)))
    return drafting(*(told(text, sure) for text in texts), Finish(reason="stop"), usage)


def strong(*texts: str, **changes: object) -> ScriptedBackend:
    facts = upstream("big", price=PRICE, **changes)
    return ScriptedBackend(facts, saying(*(texts or ("strong",))))


def cascade(*parts: ScriptedBackend, **options: Any) -> CascadeBackend:
    made = CascadeOptions(kind="cascade", draft="small", strong="big", **options)
    built = {part.upstream.name: part for part in parts}
    return CascadeBackend("both", made, Resources(backends=built))


async def events(backend: CascadeBackend, **changes: Any) -> list[Event]:
    stream = backend.stream(exchange(**{"stream": True, **changes}).request, Call(id="t"))
    try:
        return [event async for event in stream]
    finally:
        await stream.aclose()


def text(said: Sequence[Event]) -> str:
    return "".join(event.text for event in said if isinstance(event, TextDelta))


def verdict(said: Sequence[Event]) -> CascadeReport:
    (found,) = [event for event in said if isinstance(event, CascadeReport)]
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_a_sure_draft_is_the_answer(stream: bool) -> None:
    """It is kept, nobody else is asked, and its log-probabilities stay ours."""
    small, big = draft("Par", "is"), strong()
    said = run(events(cascade(small, big), stream=stream))
    assert text(said) == "Paris" and big.calls == []
    assert isinstance(said[0], Answered) and said[0].upstream.name == "small"
    assert not verdict(said).escalated and verdict(said).score > 0.5
    assert all(not event.logprobs for event in said if isinstance(event, TextDelta))
    assert small.calls[0].sampling.logprobs and Feature.LOGPROBS in small.calls[0].features


@pytest.mark.parametrize("stream", [True, False])
def test_an_unsure_draft_is_never_heard(stream: bool) -> None:
    """The strong one answers from the start; the draft is stopped and its work is accounted."""
    small, big = draft(*"abc", sure=UNSURE), strong()
    said = run(events(cascade(small, big), stream=stream))
    assert text(said) == "strong" and verdict(said).why == "unsure"
    (report,) = [event for event in said if isinstance(event, PartReport)]
    assert (report.upstream, report.result) == ("small", "cancelled")
    assert (small.open_streams, big.open_streams) == (0, 0)
    assert big.calls[0].sampling.logprobs is None


def test_a_stream_begins_after_the_look() -> None:
    """Not before so many tokens, and not later: the rest comes as it is made."""
    gate = asyncio.Event()
    small = drafting(*map(told, "abcd"), gate, told("e"), Finish(reason="stop"))
    backend = cascade(small, strong(), look=4)

    async def story() -> str:
        stream = backend.stream(exchange(stream=True).request, Call(id="t"))
        first = ""
        async for event in stream:
            first += event.text if isinstance(event, TextDelta) else ""
            if first == "abcd":
                break
        gate.set()
        rest = [event async for event in stream]
        return first + text(rest)

    assert run(story()) == "abcde"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("I'm sorry, I cannot do that.", "refusal"),
        ("", "empty"),
        ("na " * 40, "loop"),
    ],
)
def test_a_fault_escalates_however_sure_the_draft_was(said: str, why: str) -> None:
    """Certainty is no excuse."""
    found = run(events(cascade(draft(said), strong())))
    assert text(found) == "strong" and verdict(found).why == why


def test_json_that_is_none_escalates() -> None:
    """A form that was asked for is checked once the draft has ended."""
    wish = {
        "features": frozenset({Feature.CHAT, Feature.JSON_MODE}),
        "body": {"response_format": {"type": "json_object"}},
        "stream": False,
    }
    assert verdict(run(events(cascade(draft('{"a": '), strong()), **wish))).why == "form"
    assert text(run(events(cascade(draft('{"a": 1}'), strong()), **wish))) == '{"a": 1}'


def test_a_draft_that_fails_is_replaced() -> None:
    """A dead engine before the decision: the strong one answers. A bad request stays one."""
    said = run(events(cascade(drafting(told("a"), EngineFailed("dead")), strong())))
    assert text(said) == "strong" and verdict(said).why == "failed"
    with pytest.raises(InvalidRequest):
        run(events(cascade(drafting(InvalidRequest("no", param="x")), strong())))


def test_without_log_probabilities_the_strong_one_answers() -> None:
    """A draft that cannot be judged is not asked at all; nor are several choices."""
    plain = upstream("small")
    blind = ScriptedBackend(
        replace(plain, features=plain.features - {Feature.LOGPROBS}), saying("x")
    )
    assert text(run(events(cascade(blind, strong())))) == "strong" and blind.calls == []
    small = draft("x")
    many = frozenset({Feature.CHAT, Feature.N})
    assert text(run(events(cascade(small, strong()), features=many))) == "strong"
    assert small.calls == []


@pytest.mark.parametrize("broken", [True, False])
def test_a_stream_that_goes_wrong_later_is_gone_on_with(broken: bool) -> None:
    """In circles, or cut: the strong one goes on from the text that the client has, once."""
    good = [f"word{i} " for i in range(20)]
    bad: list[Step] = [EngineFailed("died")] if broken else [told("tick tock. ")] * 60
    small = drafting(*map(told, good), *bad, Finish(reason="stop"))
    big = strong("THE END", continues=frozenset({Endpoint.CHAT}))
    said = run(events(cascade(small, big)))
    assert text(said).startswith("".join(good)) and text(said).endswith("THE END")
    assert text(said).count("tick") < 40
    assert big.calls[0].continues == text(said).removesuffix("THE END")
    assert len([event for event in said if isinstance(event, Finish)]) == 1
    assert [e.result for e in said if isinstance(e, PartReport)] == ["cut"]
    (usage,) = [event.usage for event in said if isinstance(event, UsageReport)]
    assert usage.completion_tokens > 20


def test_where_nobody_can_go_on_a_loop_is_let_run() -> None:
    """The client hears its draft to the end; a break is its error, as anywhere."""
    looping = drafting(*map(told, ["la la la la "] * 60), Finish(reason="stop"))
    said = run(events(cascade(looping, strong(), look=2)))
    assert text(said).count("la la la la ") == 60
    dying = drafting(*(told(f"{i} ") for i in range(20)), UpstreamFailed("cut"))
    with pytest.raises(UpstreamFailed):
        run(events(cascade(dying, strong())))


@pytest.mark.parametrize("probability", [0.75, SURE])
def test_a_second_opinion_moves_the_score(probability: float) -> None:
    """One that agrees raises it, one that differs lowers it; one that fails says nothing."""

    def score(*steps: Step) -> float:
        second = ScriptedBackend(upstream("other"), steps)
        backend = cascade(draft("Paris", sure=probability), strong(), second, second="other")
        return verdict(run(events(backend))).score

    agrees = score(TextDelta(text="paris"), Finish(reason="stop"))
    differs = score(TextDelta(text="Rome"), Finish(reason="stop"))
    assert differs < score(UpstreamFailed("down")) < agrees


def test_the_draft_may_be_its_own_second() -> None:
    """Then it is asked again, with chance."""
    small = draft("Paris")
    run(events(cascade(small, strong(), second="small")))
    assert [call.sampling.temperature for call in small.calls][1] == 0.7


@pytest.mark.parametrize("sure", [SURE, UNSURE])
def test_a_second_opinion_is_paid_for(sure: float) -> None:
    """Who was asked about a draft, kept or not, is in the record with its cost, and so is one that
    could not say anything.
    """

    def helped(*steps: Step) -> PartReport:
        second = ScriptedBackend(upstream("other", price=PRICE), steps)
        backend = cascade(draft("Paris", sure=sure), strong(), second, second="other")
        reports = [event for event in run(events(backend)) if isinstance(event, PartReport)]
        return next(report for report in reports if report.upstream == "other")

    told = helped(*saying("Paris", usage=Usage(prompt_tokens=900, completion_tokens=100)))
    assert told.result == "ok"
    assert told.cost_usd == pytest.approx(0.01)
    silent = helped(TextDelta(text="Paris", tokens=1), Finish(reason="stop"))
    assert silent.cost_usd is not None and silent.cost_usd > 0
    down = helped(UpstreamFailed("down"))
    assert (down.result, down.cost_usd) == ("failed", 0.0)


def test_log_probabilities_that_were_asked_for_are_told() -> None:
    """As many as the client wanted beside each token."""
    asked = exchange().request.sampling
    said = run(events(cascade(draft("a"), strong()), sampling=replace(asked, logprobs=1)))
    (delta,) = [event for event in said if isinstance(event, TextDelta)]
    assert [len(each.top) for each in delta.logprobs] == [1]


def test_frames_of_either_are_not_mixed() -> None:
    """A draft's raw frames carry another id and our log-probabilities: they are made anew."""
    framed = replace(told("a"), frame=b"data: {}\n\n")
    small = drafting(Frame(frame=b"role"), framed, Finish(reason="stop", frame=b"x"))
    said = run(events(cascade(small, strong())))
    assert all(event.frame is None for event in said)


def test_a_client_that_leaves_stops_the_draft() -> None:
    """While it is judged nothing has been sent, and nothing goes on."""
    small, big = drafting(told("a"), asyncio.Event()), strong()

    async def story() -> None:
        stream = cascade(small, big).stream(exchange(stream=True).request, Call(id="t"))
        waiting = asyncio.ensure_future(anext(stream))
        while not small.open_streams:
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        assert (small.open_streams, big.open_streams, big.calls) == (0, 0, [])

    run(story())


def test_an_escalation_that_fails_says_so() -> None:
    """Nothing has been sent, so whoever routes may try the next upstream."""
    failing = ScriptedBackend(upstream("big"), [UpstreamFailed("down")])
    with pytest.raises(TandemError, match="down"):
        run(events(cascade(draft("x", sure=UNSURE), failing)))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(-3, 3), st.integers(0, 2**32))
def test_a_share_is_held(share: float, shift: float, seed: int) -> None:
    """Whatever scores a traffic has, the share escalated comes within six points of the wish."""
    random = Random(seed)
    held = _Share(share, 0.5)
    escalated = 0
    for i in range(1500):
        score = 1 / (1 + math.exp(-random.gauss(shift, 1)))
        if i >= ENOUGH + 480:
            escalated += score < held.least
        held.note(score)
    assert abs(escalated / (1500 - ENOUGH - 480) - share) < 0.06


def test_a_calibration_comes_from_a_file(tmp_path: Path) -> None:
    """Its weights decide; what is wrong with it is said with its name."""
    path = tmp_path / "pair.json"
    path.write_text(json.dumps({"weights": {"tokens": -50.0}, "bias": 0.0}))
    said = run(events(cascade(draft("a"), strong(), calibration=path)))
    assert verdict(said).escalated
    for wrong in ("{", '{"weights": {}}', '{"weights": {"nonsense": 1}, "bias": 0}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="pair.json"):
            cascade(draft("a"), strong(), calibration=path)


def test_its_zone_is_the_widest_of_its_parts() -> None:
    """A request that may not go to the strong one does not come here at all."""
    backend = cascade(draft("a"), strong())
    assert backend.upstream.zone == max(part.upstream.zone for part in (draft("a"), strong()))
    assert backend.upstream.price == PRICE
