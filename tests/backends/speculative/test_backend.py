"""Speculation as a Backend, over a real WebSocket, against a target that follows a script."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from backends.base import Backend, Resources
from backends.openai import OpenAIBackend, OpenAIOptions
from backends.speculative.backend import REST_S, SpeculativeBackend
from backends.speculative.client import session_url
from backends.speculative.controller import PROBE_TOKENS, Estimates, Span
from backends.speculative.known import Kind, Known
from backends.speculative.options import SpeculativeOptions
from backends.speculative.seams import Ended
from backends.speculative.session import Commit, Failure, Opened, pack
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.chat import ChatRequest, Feature
from gateway.core.errors import AuthenticationFailed, EngineFailed, LocalUnavailable, UpstreamBroken
from gateway.core.events import Event, Finish, SpeculationReport, TextDelta, UsageReport, collect
from gateway.core.exchange import Call, Caller
from gateway.core.routing import Price, Tier, Zone
from gateway.dialects.openai_chat import OpenAIChat
from tests.fakes.clock import FakeClock
from tests.fakes.serving import serving
from tests.fakes.toy_pair import ToyModel, knowing, wrong_each
from tests.fakes.upstream import DONE, FakeUpstream, chunk, finish, reply, sse, usage

SENTENCE = "the cat sat on the mat and looked at the moon for a very long time"
KEY = "tdm-secret-key"
CALL = Call(id="req_1")


def request(**fields: Any) -> ChatRequest:
    body = {"model": "tandem", "messages": [{"role": "user", "content": "say it"}], **fields}
    return OpenAIChat().decode(body, {})


class Companion:
    """A companion's endpoint over a toy target, behind a real server."""

    def __init__(self, target: ToyModel) -> None:
        self.target = target
        self.ended: list[Ended] = []
        self.endpoint = CompanionEndpoint(
            guard=lambda method, headers: None,
            authenticate=self._authenticate,
            resolve=resolver({"toy": target}),
            ended=self.ended.append,
        )

    def _authenticate(self, headers: Mapping[str, str]) -> Caller:
        if headers.get("authorization") != f"Bearer {KEY}":
            raise AuthenticationFailed("Incorrect API key.")
        return Caller(tenant="edge")


def backend(
    base_url: str,
    draft: ToyModel,
    *,
    zone: Zone = Zone.MACHINE,
    key: str = KEY,
    clock: Callable[[], float] = time.monotonic,
    timeouts: Mapping[str, float] | None = None,
    **options: Any,
) -> SpeculativeBackend:
    target = OpenAIBackend(
        "cloud",
        OpenAIOptions(
            kind="companion",
            zone=zone.label,  # type: ignore[arg-type]
            base_url=base_url,
            api_key=SecretStr(key),
            model="toy",
            timeouts=dict(timeouts or {}),  # type: ignore[arg-type]
            price={"input": 1, "output": 2},  # type: ignore[arg-type]
        ),
        Resources(),
    )
    parts = {"draft": cast(Backend, draft), "cloud": target}
    settings = SpeculativeOptions(kind="speculative", draft="draft", target="cloud", **options)
    return SpeculativeBackend("pair", settings, Resources(backends=parts), clock=clock)


@asynccontextmanager
async def paired(
    target: ToyModel, draft: ToyModel, **options: Any
) -> AsyncIterator[tuple[SpeculativeBackend, Companion]]:
    companion = Companion(target)
    async with serving(companion.endpoint) as base_url:
        pair = backend(base_url, draft, **options)
        try:
            yield pair, companion
        finally:
            await pair._target.aclose()


async def answer(pair: SpeculativeBackend, call: Call = CALL, **fields: Any) -> list[Event]:
    async with asyncio.timeout(20):
        return [event async for event in pair.stream(request(**fields), call)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def report_of(events: list[Event]) -> SpeculationReport:
    [report] = [event for event in events if isinstance(event, SpeculationReport)]
    return report


@pytest.mark.parametrize(
    "rule",
    [knowing(SENTENCE), wrong_each(SENTENCE, 3), lambda position, said: 127],
    ids=["right", "often right", "never right"],
)
def test_the_answer_is_the_targets(rule: Any) -> None:
    """Any drafter, one answer: text, finish and usage are the target's own."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=rule)
        async with paired(target, draft, always=True) as (pair, companion):
            events = await answer(pair)
            completion = await collect(_again(events))
            assert completion.choices[0].text == SENTENCE
            assert completion.choices[0].finish_reason == "stop"
            assert completion.usage is not None
            assert completion.usage.prompt_tokens == 3
            assert completion.usage.completion_tokens == len(SENTENCE) + 1
            kinds = [type(event) for event in events if not isinstance(event, TextDelta)]
            assert kinds == [SpeculationReport, Finish, UsageReport]
            assert report_of(events).strategy == "companion"
            assert sum(e.tokens for e in events if isinstance(e, TextDelta)) == len(SENTENCE)
            async with asyncio.timeout(5):
                while not companion.ended:  # once our close has come there
                    await asyncio.sleep(0.01)
            assert [ended.caller.tenant for ended in companion.ended] == ["edge"]

    asyncio.run(scenario())


async def _again(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def test_drafts_reach_the_target() -> None:
    """What the drafter proposes before the target is ready is settled in one pass."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=knowing(SENTENCE))
        gate = target.engine.hold = asyncio.Event()
        async with paired(target, draft, always=True, ahead=6) as (pair, _):
            answering = asyncio.create_task(answer(pair))
            async with asyncio.timeout(10):
                while not target.engine.sequences or target.engine.sequences[0].pending(6) < 6:
                    await asyncio.sleep(0.01)
            gate.set()
            report = report_of(await answering)
            assert report.accepted == report.drafted >= 6
            assert report.rounds <= len(SENTENCE) + 1 - report.accepted
        [drafting] = draft.engine.sequences
        assert (drafting.job.role, drafting.job.ahead) == ("draft", 6)
        assert drafting.job.tokens == (1, 2, 3)
        assert drafting.closed

    asyncio.run(scenario())


def test_the_prompt_is_rendered_by_the_companion() -> None:
    """The body that HTTP would post is what the session carries, so both mean one prompt."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=knowing(SENTENCE))
        async with paired(target, draft) as (pair, _):
            await answer(pair, max_tokens=4, temperature=0, seed=7, stop=["x"])
        [seen] = target.requests
        assert seen.messages[0].text == "say it"
        assert (seen.sampling.max_tokens, seen.sampling.seed) == (4, 7)
        assert (seen.sampling.temperature, seen.sampling.stop) == (0, ("x",))
        assert draft.requests == []

    asyncio.run(scenario())


def test_a_drafter_that_dies_costs_nothing_but_speed() -> None:
    """The same request goes on with the target alone, and says so (fault 46)."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE * 5), ToyModel("draft", rule=knowing(SENTENCE))
        draft.engine.fail_at = (10, EngineFailed("killed"))
        async with paired(target, draft, always=True) as (pair, _):
            events = await answer(pair)
            assert text_of(events) == SENTENCE * 5
            assert report_of(events).strategy == "companion;draft-lost"
            assert pair.known.pair.drafting_s is None

    asyncio.run(scenario())


def test_a_draft_model_that_is_not_loaded() -> None:
    """Without a local vocabulary the session runs undrafted."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft")
        draft.vocabulary = None
        async with paired(target, draft) as (pair, _):
            events = await answer(pair)
            assert text_of(events) == SENTENCE
            assert report_of(events).strategy == "companion;off"
            assert draft.engine.sequences == []

    asyncio.run(scenario())


def test_the_controller_stops_drafting_and_says_so() -> None:
    """A pair that was measured to lose answers undrafted; `always` drafts nevertheless."""

    async def scenario() -> None:
        losing = Estimates(
            drafting=Span(tokens=100, seconds=200), plain=Span(tokens=100, seconds=100)
        )
        for always, strategy in ((False, "companion;off"), (True, "companion")):
            target = ToyModel("toy", SENTENCE)
            draft = ToyModel("draft", rule=knowing(SENTENCE))
            async with paired(target, draft, always=always) as (pair, _):
                pair.known = Known(pair=losing, kinds={Kind("chat", "hot"): losing})
                events = await answer(pair)
                assert text_of(events) == SENTENCE
                assert report_of(events).strategy == strategy
                assert bool(draft.engine.sequences) is always

    asyncio.run(scenario())


def test_an_unknown_pair_probes_and_then_knows() -> None:
    """The first answer drafts in its beginning only, and teaches both rates."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=knowing(SENTENCE))
        each_look_is_later = itertools.count().__next__
        async with paired(target, draft, clock=each_look_is_later) as (pair, _):
            assert report_of(await answer(pair)).strategy == "companion;off"
            assert pair.known.pair.drafting.tokens >= PROBE_TOKENS - 8
            assert pair.known.pair.plain.tokens >= PROBE_TOKENS

    asyncio.run(scenario())


def test_leaving_stops_target_and_drafter() -> None:
    """A caller who closes the stream frees both engines, at both ends of the socket."""

    async def scenario() -> None:
        target = ToyModel("toy", SENTENCE * 200)
        draft = ToyModel("draft", rule=knowing(SENTENCE * 200))
        async with paired(target, draft, always=True) as (pair, companion):
            stream = pair.stream(request(), CALL)
            await anext(stream)
            await stream.aclose()
            async with asyncio.timeout(10):
                while not companion.ended:
                    await asyncio.sleep(0.01)
            assert companion.ended[0].outcome == "cancelled"
            assert target.engine.sequences[0].closed
            assert draft.engine.sequences[0].closed
            assert companion.endpoint.open_sessions == 0

    asyncio.run(scenario())


PLAIN = sse(chunk("plain"), finish(), usage(2, 1), DONE)


def test_where_short_passes_make_drafting_lose_no_session_is_paid_for() -> None:
    """The target streams alone, which is measured; after some answers a session is asked for."""

    async def scenario() -> None:
        losing = Estimates(
            drafting=Span(tokens=100, seconds=0.2), plain=Span(tokens=100, seconds=0.1), pause=2
        )
        alone = sse(chunk("pla"), chunk("in"), finish(), usage(2, 101), DONE)
        clock = itertools.count(step=0.1).__next__
        async with FakeUpstream(alone, alone, reply(404, {}), PLAIN) as upstream:
            pair = backend(upstream.base_url, ToyModel("draft"), clock=clock)
            pair.known = Known(pair=losing, kinds={Kind("chat", "hot"): losing})
            for _ in range(2):
                events = await answer(pair, stream=True)
                assert text_of(events) == "plain"
                assert report_of(events).strategy == "stream;off"
            assert pair.known.pair.alone.tokens > 100
            assert pair.known.pair.plain == losing.plain
            assert report_of(await answer(pair, stream=True)).strategy == "stream;status_404"

    asyncio.run(scenario())


def test_no_companion_there_means_plain_streaming() -> None:
    """A server without sessions answers over HTTP, and is not asked for a session each time."""

    async def scenario() -> None:
        clock = FakeClock()
        async with FakeUpstream(reply(404, {}), PLAIN) as upstream:
            pair = backend(upstream.base_url, ToyModel("draft"), clock=clock)
            for _ in range(2):
                events = await answer(pair, stream=True)
                assert text_of(events) == "plain"
                assert report_of(events).strategy == "stream;status_404"
            paths = [seen.path for seen in upstream.requests]
            assert paths == ["/v1/tandem/session", *["/v1/chat/completions"] * 2]
            clock.advance(REST_S + 1)
            await answer(pair, stream=True)
            assert [seen.path for seen in upstream.requests][3] == "/v1/tandem/session"
            await pair._target.aclose()

    asyncio.run(scenario())


def test_a_redirect_is_not_followed() -> None:
    """Neither prompt nor key goes to where a server points."""

    async def scenario() -> None:
        async with FakeUpstream(PLAIN) as elsewhere:

            async def move(conversation: Any) -> None:
                where = elsewhere.base_url + "/tandem/session"
                await conversation.head(302, location=where, content_length="0")

            async with FakeUpstream(move, PLAIN) as upstream:
                pair = backend(upstream.base_url, ToyModel("draft"))
                events = await answer(pair, stream=True)
                assert report_of(events).strategy == "stream;status_302"
                await pair._target.aclose()
            assert elsewhere.connections == 0

    asyncio.run(scenario())


def test_a_refused_session_falls_back() -> None:
    """Another vocabulary, or a full companion, is no reason not to answer."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=knowing(SENTENCE))
        target.engine.refuse = EngineFailed("no room")
        companion = Companion(target)

        async def both(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await companion.endpoint(scope, receive, send)
                return
            head = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            body = chunk("plain") + finish() + DONE
            await send({"type": "http.response.body", "body": body})

        async with serving(both) as base_url:
            pair = backend(base_url, draft)
            events = await answer(pair, stream=True)
            assert text_of(events) == "plain"
            assert report_of(events).strategy == "stream;engine_failed"
            await pair._target.aclose()

    asyncio.run(scenario())


def test_a_session_that_breaks_before_a_byte_falls_back() -> None:
    """Until something was shown, another way may be taken; after that the break is told."""

    async def scenario() -> None:
        shown = False

        async def breaking(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                head = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                body = chunk("plain") + finish() + DONE
                await send({"type": "http.response.body", "body": body})
                return
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "bytes": pack(Opened(session="s"))})
            if shown:
                said = Commit(epoch=0, base_pos=0, tokens=(65,), text_bytes=b"A")
                await send({"type": "websocket.send", "bytes": pack(said)})
            await send({"type": "websocket.send", "bytes": pack(Failure(code="engine_failed"))})
            await send({"type": "websocket.close", "code": 1011})

        async with serving(breaking) as base_url:
            pair = backend(base_url, ToyModel("draft"))
            events = await answer(pair, stream=True)
            assert text_of(events) == "plain"
            assert report_of(events).strategy == "stream;broken"
            shown = True
            with pytest.raises(UpstreamBroken, match="engine_failed"):
                await answer(pair, stream=True)
            await pair._target.aclose()

    asyncio.run(scenario())


def test_a_companion_that_hangs() -> None:
    """A socket that is accepted and never answered costs the time for a first content, no more."""

    async def scenario() -> None:
        async def hanging(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                head = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                body = chunk("plain") + finish() + DONE
                await send({"type": "http.response.body", "body": body})
                return
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass

        async with serving(hanging) as base_url:
            pair = backend(base_url, ToyModel("draft"), timeouts={"first_content": 0.2})
            events = await answer(pair, stream=True)
            assert text_of(events) == "plain"
            assert report_of(events).strategy == "stream;upstream_timeout"
            await pair._target.aclose()

    asyncio.run(scenario())


def test_zones_bind_before_any_connection() -> None:
    """A request that may not leave the machine opens no socket to a companion elsewhere."""

    async def scenario() -> None:
        async with FakeUpstream(PLAIN) as upstream:
            pair = backend(upstream.base_url, ToyModel("draft"), zone=Zone.ORGANISATION)
            assert pair.upstream.zone is Zone.ORGANISATION
            with pytest.raises(LocalUnavailable):
                await answer(pair, Call(id="1", zone=Zone.MACHINE))
            assert upstream.connections == 0
            await pair._target.aclose()

    asyncio.run(scenario())


def test_no_log_of_ours_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """The WebSocket library logs headers at DEBUG; for sessions it does not get to."""

    async def scenario() -> None:
        target, draft = ToyModel("toy", SENTENCE), ToyModel("draft", rule=knowing(SENTENCE))
        async with paired(target, draft) as (pair, _):
            assert text_of(await answer(pair)) == SENTENCE

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    ours = [record for record in caplog.records if record.name != "uvicorn.error"]
    assert ours
    assert not [record for record in ours if KEY in record.getMessage()]


def test_what_routing_sees() -> None:
    """The target's model, context and price, what a session can carry, and its own tier."""
    pair = backend("http://127.0.0.1:9", ToyModel("draft"), zone=Zone.ORGANISATION)
    seen = pair.upstream
    assert (seen.name, seen.kind, seen.tier) == ("pair", "speculative", Tier.SPECULATIVE)
    assert (seen.model, seen.price) == ("toy", Price(input=1, output=2))
    assert Feature.CHAT in seen.features
    assert not seen.features & {Feature.TOOLS, Feature.N, Feature.LOGPROBS, Feature.JSON_MODE}
    assert SpeculativeBackend.parts(pair.options) == ("draft", "cloud")


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://host:8090", "ws://host:8090/v1/tandem/session"),
        ("http://host:8090/v1", "ws://host:8090/v1/tandem/session"),
        ("https://gw.example/tandem/v1/", "wss://gw.example/tandem/v1/tandem/session"),
    ],
)
def test_session_url(base_url: str, url: str) -> None:
    """A session lives beside the HTTP API, under the same root and security."""
    assert session_url(base_url) == url


@pytest.mark.parametrize("draft_zone", [Zone.MACHINE, Zone.PUBLIC])
def test_nothing_leaves_the_zone(draft_zone: Zone) -> None:
    """No prompt, draft or verification outside the request's zone: a stub that records every byte
    hears nothing, by any way, and a drafter outside it makes the pair as wide as it is."""
    heard: list[str] = []

    async def recorder(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope["type"])

    async def scenario() -> None:
        async with serving(recorder) as base_url:
            draft = ToyModel("draft", rule=knowing(SENTENCE))
            draft.upstream = replace(draft.upstream, zone=draft_zone)
            pair = backend(base_url, draft, zone=Zone.ORGANISATION, always=True)
            assert pair.upstream.zone is max(draft_zone, Zone.ORGANISATION)
            for call in (Call(id="1", zone=Zone.MACHINE), Call(id="2", zone=Zone.MACHINE)):
                with pytest.raises(LocalUnavailable):
                    await answer(pair, call)
            assert draft.engine.sequences == [], "a prompt was drafted on"
            if draft_zone is Zone.PUBLIC:
                with pytest.raises(LocalUnavailable):
                    await answer(pair, Call(id="3", zone=Zone.ORGANISATION))
            await pair._target.aclose()

    asyncio.run(scenario())
    assert heard == []
