"""What every rung of speculation promises: one suite, run on each strategy, over real models.

The reference is the same upstream, asked plainly. Which drafts there were, whether there were any,
and who died on the way must not be seen in an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import pytest

from backends.base import Backend, Resources
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.options import SpeculativeOptions
from backends.speculative.rung import Rung
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.chat import ChatRequest, Completion
from gateway.core.errors import AuthenticationFailed, LocalUnavailable, TandemError, UpstreamError
from gateway.core.events import (
    Event,
    SpeculationReport,
    TextDelta,
    UsageReport,
    collect,
    is_content,
)
from gateway.core.exchange import Call, Caller
from gateway.core.routing import Zone
from gateway.dialects.openai_chat import OpenAIChat
from tests.conftest import local_engine_missing
from tests.fakes.bundled_pair import Models, build, loaded
from tests.fakes.misleading import Misleading
from tests.fakes.predicting import Predicting
from tests.fakes.serving import serving
from tests.fakes.vllm_like import VllmLike

PROMPTS = (
    "What is Tandem?",
    "Write a Python function that adds two numbers.",
    "Give me a JSON object with a name and an age.",
    "Résumé, naïve, 東京, emoji 🙂",
    "Hello!",
)
TOKENS = 32
CALL = Call(id="req_1")
Drafting = Literal["good", "wrong", "none"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    if missing := local_engine_missing():
        pytest.skip(missing)
    with loaded() as both:
        yield both


@dataclass
class Rig:
    """One strategy's pair, the same upstream without it, and the server behind both."""

    pair: SpeculativeBackend
    plain: Backend
    server: VllmLike
    cut: Callable[[], None]
    refuse: Callable[[], None]

    async def proved(self) -> Rung | None:
        ladder = self.pair._ladder
        return None if ladder is None else await ladder.settled()


def drafter(models: Models, drafting: Drafting) -> Backend:
    if drafting == "wrong":
        return cast(Backend, Misleading(models.draft))
    if drafting == "none":
        empty = build("llama_cpp", Resources(), model="bundled:draft", zone="machine")
        empty.prompts = models.draft.prompts  # its vocabulary is known, and it never says a word
        return cast(Backend, empty)
    return models.draft


@asynccontextmanager
async def rigged(
    models: Models,
    server: VllmLike,
    app: Any,
    *,
    kind: str,
    drafting: Drafting,
    cut: Callable[[], None] = lambda: None,
    refuse: Callable[[], None] = lambda: None,
    zone: str = "machine",
    **options: Any,
) -> AsyncIterator[Rig]:
    def cut_all() -> None:
        server.fail_rounds_after = server.cut_after = 0
        cut()

    def refuse_all() -> None:
        server.fail = 500
        refuse()

    async with serving(app) as address:
        base_url = address if kind == "companion" else f"{address}/v1"
        plain = build(kind, Resources(), base_url=base_url, zone=zone, **options)
        await plain.start()
        parts = {"draft": drafter(models, drafting), "target": plain}
        pair = build(
            "speculative", Resources(backends=parts), draft="draft", target="target", always=True
        )
        try:
            yield Rig(pair, plain, server, cut_all, refuse_all)
        finally:
            await pair.aclose()
            await plain.aclose()


@asynccontextmanager
async def companion(models: Models, drafting: Drafting, zone: str) -> AsyncIterator[Rig]:
    refusing = False

    def authenticate(headers: Any) -> Caller:
        if refusing:
            raise AuthenticationFailed("no")
        return Caller()

    def refuse() -> None:
        nonlocal refusing
        refusing = True

    endpoint = CompanionEndpoint(
        guard=lambda method, headers: None,
        authenticate=authenticate,
        resolve=resolver({"real": models.target}),
    )
    server = VllmLike(models.target)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (endpoint if scope["type"] == "websocket" else server)(scope, receive, send)

    async with rigged(
        models, server, app, kind="companion", drafting=drafting, zone=zone, model="real",
        cut=endpoint.cut, refuse=refuse,
    ) as rig:  # fmt: skip
        yield rig


@asynccontextmanager
async def one_shot(models: Models, drafting: Drafting, zone: str) -> AsyncIterator[Rig]:
    server = Predicting(models.target)
    async with rigged(
        models, server, server, kind="openai", drafting=drafting, zone=zone,
        profile="openai", model="gpt-4o-real",
    ) as rig:  # fmt: skip
        yield rig


@asynccontextmanager
async def prefix_fanout(models: Models, drafting: Drafting, zone: str) -> AsyncIterator[Rig]:
    server = VllmLike(models.target)
    async with rigged(
        models, server, server, kind="vllm", drafting=drafting, zone=zone, model="real"
    ) as rig:
        yield rig


Harness = Callable[[Models, Drafting, str], AbstractAsyncContextManager[Rig]]
HARNESS: dict[str, Harness] = {
    "companion": companion,
    "one_shot": one_shot,
    "prefix_fanout": prefix_fanout,
}


@pytest.fixture(params=sorted(HARNESS))
def harness(request: pytest.FixtureRequest) -> Harness:
    found: Harness = HARNESS[request.param]
    return found


def request(prompt: str = PROMPTS[0], **fields: Any) -> ChatRequest:
    body = {
        "model": "x",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        **fields,
    }
    return OpenAIChat().decode(body, {})


async def events_of(backend: Backend, asked: ChatRequest, call: Call = CALL) -> list[Event]:
    async with aclosing(backend.stream(asked, call)) as events:
        return [event async for event in events]


async def completed(events: list[Event]) -> Completion:
    async def again() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return await collect(again())


def report(events: list[Event]) -> SpeculationReport:
    [found] = [event for event in events if isinstance(event, SpeculationReport)]
    return found


async def same_answer(rig: Rig, asked: ChatRequest) -> SpeculationReport:
    """The pair's report, once its answer has been held against the plain one."""
    drafted = await events_of(rig.pair, asked)
    ours, theirs = await completed(drafted), await completed(await events_of(rig.plain, asked))
    assert ours.choices[0].text == theirs.choices[0].text
    assert ours.choices[0].finish_reason == theirs.choices[0].finish_reason
    assert ours.usage is not None
    assert theirs.usage is not None
    assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens
    said = ours.usage.completion_tokens - ours.usage.rejected_prediction_tokens
    assert said == theirs.usage.completion_tokens
    return report(drafted)


async def at_rest(models: Models) -> None:
    while (await models.target.engine.stats())["running"]:
        await asyncio.sleep(0.01)


def test_every_strategy_is_tested() -> None:
    """A new rung cannot forget this suite."""
    known = get_args(SpeculativeOptions.model_fields["strategy"].annotation)
    assert set(HARNESS) == set(known) - {"auto"}


@pytest.mark.parametrize("drafting", get_args(Drafting))
def test_the_answer_is_that_of_the_plain_stream(
    models: Models, harness: Harness, drafting: Drafting
) -> None:
    """Good drafts, wrong ones or none: text, finish and tokens of the plain stream."""

    async def story() -> None:
        async with harness(models, drafting, "machine") as rig:
            rung = await rig.proved()
            assert rung is None or (rung.state, rung.reason) == ("proved", "")
            reports = [await same_answer(rig, request(prompt)) for prompt in PROMPTS]
            drafted, held = (
                sum(each.drafted for each in reports),
                sum(each.accepted for each in reports),
            )
            assert all(each.accepted <= each.drafted for each in reports)
            # By chance a token of a wrong draft holds here and there.
            assert {"good": held > 0, "wrong": 4 * held <= drafted, "none": not drafted}[drafting]

    models.run(story())


def test_one_answer_whole(models: Models, harness: Harness) -> None:
    """A client that does not stream gets the same."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            await same_answer(rig, request(stream=False))

    models.run(story())


@pytest.mark.parametrize("stop", ["gateway", "a", "It gives", "models."])
def test_a_stop_string_ends_it_there(models: Models, harness: Harness, stop: str) -> None:
    """Nothing from a stop string on is shown, wherever drafts had gone on to."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            await same_answer(rig, request(stop=[stop]))

    models.run(story())


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_max_tokens_hold(models: Models, harness: Harness, tokens: int) -> None:
    """Not a token more than was asked for, and finish length."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            await same_answer(rig, request(max_tokens=tokens))

    models.run(story())


@pytest.mark.parametrize(
    "fields",
    [{"seed": 3, "temperature": 0.8}, {"frequency_penalty": 1.0}, {"user": "u", "top_p": 0.5}],
    ids=json.dumps,
)
def test_settings_reach_the_target(
    models: Models, harness: Harness, fields: dict[str, Any]
) -> None:
    """What a strategy cannot carry exactly goes by the plain stream."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            await same_answer(rig, request(**fields))

    models.run(story())


def test_before_a_probe_there_is_the_stream(models: Models, harness: Harness) -> None:
    """Nobody waits for a probe: what comes before it has ended is answered plainly."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            if rig.pair.rung is None:
                return
            found = await same_answer(rig, request())
            assert found.strategy == "stream;probing"

    models.run(story())


def test_a_failure_before_the_first_byte_is_an_upstreams(models: Models, harness: Harness) -> None:
    """Whoever asked can still try another upstream."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            rig.refuse()
            with pytest.raises(UpstreamError) as caught:
                async with aclosing(rig.pair.stream(request(), CALL)) as events:
                    async for event in events:
                        assert not is_content(event)
            assert caught.value.retryable
            rig.server.fail = 0

    models.run(story())


def test_a_failure_after_the_first_byte_shows_no_other_voice(
    models: Models, harness: Harness
) -> None:
    """The answer goes on as it would have, or ends in an error: what was said is its beginning."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            whole = (await completed(await events_of(rig.plain, request()))).choices[0].text
            rig.server.pace_s = 0.02
            said: list[str] = []
            ended = True
            try:
                async with aclosing(rig.pair.stream(request(), CALL)) as events:
                    async for event in events:
                        if isinstance(event, TextDelta):
                            if not said:
                                rig.cut()
                            said.append(event.text)
            except TandemError:
                ended = False
            text = "".join(said)
            assert text
            assert text == whole if ended else whole.startswith(text)

    models.run(story())


def test_leaving_frees_the_target(models: Models, harness: Harness) -> None:
    """A client that goes away after a few words leaves nothing running, there or here."""

    async def story() -> None:
        async with harness(models, "good", "machine") as rig:
            await rig.proved()
            for _ in range(3):
                async with aclosing(rig.pair.stream(request(max_tokens=400), CALL)) as events:
                    async for event in events:
                        if is_content(event):
                            break
            await at_rest(models)
            while (await models.draft.engine.stats())["running"]:
                await asyncio.sleep(0.01)
            assert rig.server.open == 0
            await same_answer(rig, request())

    models.run(story())


def test_no_byte_leaves_the_zone(models: Models, harness: Harness) -> None:
    """A request that stays on the machine is refused before anything is sent or drafted."""

    async def story() -> None:
        async with harness(models, "good", "organisation") as rig:
            await rig.proved()
            assert rig.pair.upstream.zone is Zone.ORGANISATION
            before = len(rig.server.served)
            with pytest.raises(LocalUnavailable):
                await events_of(rig.pair, request(), Call(id="1", zone=Zone.MACHINE))
            assert len(rig.server.served) == before

    models.run(story())


def test_usage_is_what_was_billed(models: Models, harness: Harness) -> None:
    """With wrong drafts too, the books say what the upstream says that it read and wrote."""

    async def story() -> None:
        async with harness(models, "wrong", "machine") as rig:
            await rig.proved()
            await at_rest(models)
            read, wrote = rig.server.read, rig.server.wrote
            events = await events_of(rig.pair, request())
            [used] = [event.usage for event in events if isinstance(event, UsageReport)]
            verified = report(events).verified or used
            if rig.pair.rung is not None:  # a companion's own end is not this server
                assert verified.prompt_tokens == rig.server.read - read
                rejected = verified.rejected_prediction_tokens
                assert verified.completion_tokens - rejected == rig.server.wrote - wrote
            told = used.accepted_prediction_tokens + used.rejected_prediction_tokens
            assert told in (0, report(events).drafted)

    models.run(story())
