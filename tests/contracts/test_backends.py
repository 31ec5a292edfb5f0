"""What every backend promises: one suite, run on each kind of BACKENDS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from backends import BACKENDS
from backends.base import Backend, Resources
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.chat import ChatRequest
from gateway.core.errors import LocalUnavailable, TandemError
from gateway.core.events import (
    Answered,
    Document,
    Event,
    Finish,
    PartReport,
    TextDelta,
    UsageReport,
    collect,
)
from gateway.core.exchange import Call, Caller
from gateway.core.registry import load
from gateway.core.routing import Upstream, Zone
from gateway.dialects.openai_chat import OpenAIChat
from tests.conftest import local_engine_missing
from tests.fakes.reviewing import Reviewer
from tests.fakes.serving import serving

SSE = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
    b"data: [DONE]\n\n"
)
WHOLE = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)


def remote(request: httpx.Request) -> httpx.Response:
    """A well-behaved server of OpenAI's wire."""
    if request.method == "GET":
        return httpx.Response(200, json={"object": "list", "data": [{"id": "m"}]})
    if b'"stream":true' in request.content:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=SSE)
    return httpx.Response(200, headers={"content-type": "application/json"}, content=WHOLE)


@asynccontextmanager
async def over_http(kind: str) -> AsyncIterator[Backend]:
    backend = build(
        kind,
        Resources(transport=lambda: httpx.MockTransport(remote)),
        base_url="http://box.test",
        model="m",
    )
    await backend.start()
    yield backend
    await backend.aclose()


@asynccontextmanager
async def on_llama_cpp(kind: str, model: str = "bundled:draft") -> AsyncIterator[Backend]:
    backend = build(kind, Resources(), model=model, zone="machine", slots=2)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def speculating(kind: str) -> AsyncIterator[Backend]:
    """A draft here, and a companion with a real target behind a real socket."""
    async with (
        on_llama_cpp("llama_cpp") as draft,
        on_llama_cpp("llama_cpp", "bundled:target") as target,
        serving(
            CompanionEndpoint(
                guard=lambda method, headers: None,
                authenticate=lambda headers: Caller(),
                resolve=resolver({"target": target}),  # type: ignore[dict-item]
            )
        ) as address,
    ):
        companion = build("companion", Resources(), base_url=address, model="target")
        backend = build(
            kind,
            Resources(backends={"draft": draft, "target": companion}),
            draft="draft",
            target="target",
        )
        yield backend
        await backend.aclose()
        await companion.aclose()


@asynccontextmanager
async def racing(kind: str) -> AsyncIterator[Backend]:
    async with over_http("openai") as first, over_http("openai") as second:
        parts = {"first": first, "second": second}
        yield build(kind, Resources(backends=parts), of=("first", "second"))


@asynccontextmanager
async def going_on(kind: str) -> AsyncIterator[Backend]:
    async with over_http("vllm") as first, over_http("vllm") as second:
        parts = {"first": first, "second": second}
        yield build(kind, Resources(backends=parts), of=("first", "second"))


@asynccontextmanager
async def cascading(kind: str) -> AsyncIterator[Backend]:
    async with (
        on_llama_cpp("llama_cpp") as draft,
        on_llama_cpp("llama_cpp", "bundled:target") as target,
    ):
        parts = {"draft": draft, "target": target}
        yield build(kind, Resources(backends=parts), draft="draft", strong="target")


@asynccontextmanager
async def reviewed(kind: str) -> AsyncIterator[Backend]:
    async with over_http("openai") as draft:
        parts = {"draft": draft, "target": cast(Backend, Reviewer())}
        yield build(kind, Resources(backends=parts), draft="draft", target="target")


def build(kind: str, resources: Resources, **options: Any) -> Backend:
    cls = load(BACKENDS, kind, what="kind")
    return cls(kind, cls.options_model(kind=kind, **options), resources)  # type: ignore[no-any-return]


HARNESS: dict[str, Callable[[str], AbstractAsyncContextManager[Backend]]] = {
    **{kind: over_http for kind, path in BACKENDS.items() if path.startswith("backends.openai:")},
    "llama_cpp": on_llama_cpp,
    "cascade": cascading,
    "continuation": going_on,
    "race": racing,
    "review": reviewed,
    "speculative": speculating,
}
LOCAL = {"cascade", "llama_cpp", "speculative"}


def request(**changes: Any) -> ChatRequest:
    body = {
        "model": "x",
        "messages": [{"role": "user", "content": "What is Tandem?"}],
        "max_tokens": 8,
        "temperature": 0,
        **changes,
    }
    return OpenAIChat().decode(body, {})


@pytest.fixture(params=sorted(BACKENDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    missing = local_engine_missing()
    if name in LOCAL and missing:
        pytest.skip(missing)
    return name


def test_every_kind_is_tested() -> None:
    """A new backend cannot forget this suite."""
    assert set(HARNESS) == set(BACKENDS)


def test_satisfies_the_contract(kind: str) -> None:
    """A backend has every member of the Protocol, and says what routing may know."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            assert isinstance(backend, Backend)
            assert isinstance(backend.upstream, Upstream)
            assert backend.upstream.kind == kind
            assert backend.upstream.features
            health = await backend.health()
            assert isinstance(health.ok, bool)

    asyncio.run(story())


@pytest.mark.parametrize("stream", [True, False])
def test_answers_with_text_finish_and_usage(kind: str, stream: bool) -> None:
    """A well-ended answer has text, a finish and usage, streamed or whole."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            asked = request(stream=stream)
            async with aclosing(backend.stream(asked, Call(id="1"))) as events:
                seen: list[Event] = [event async for event in events]
            completion = await collect(_again(seen))
            assert completion.choices[0].text
            assert completion.choices[0].finish_reason in ("stop", "length")
            assert completion.usage is not None
            assert completion.usage.prompt_tokens > 0
            if stream:
                kinds = [type(event) for event in seen]
                assert kinds.index(TextDelta) < kinds.index(Finish)
                assert UsageReport in kinds
                assert Document not in kinds

    asyncio.run(story())


def test_frames_come_throughout_or_not_at_all(kind: str) -> None:
    """Either a stream's frames hold everything the client is to see, or no event has one."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            asked = request(stream=True)
            async with aclosing(backend.stream(asked, Call(id="1"))) as events:
                said = [event async for event in events]
            # What a combined backend tells of its parts is not for the client.
            frames = [e.frame for e in said if not isinstance(e, Answered | PartReport)]
            assert all(frames) if any(frames) else frames

    asyncio.run(story())


def test_closing_early_ends_it(kind: str) -> None:
    """A closed stream is over, and the backend answers the next request."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            for _ in range(3):
                events = backend.stream(request(stream=True, max_tokens=64), Call(id="1"))
                await anext(events)
                await events.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
            async with aclosing(backend.stream(request(), Call(id="2"))) as again:
                assert [event async for event in again]

    asyncio.run(story())


def test_the_zone_holds_at_egress(kind: str) -> None:
    """A request of a tighter zone than the upstream's is refused here too, the last wall."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            call = Call(id="1", zone=Zone.MACHINE)
            if backend.upstream.zone == Zone.MACHINE:
                return
            with pytest.raises(LocalUnavailable):
                async with aclosing(backend.stream(request(), call)) as events:
                    await anext(events)

    asyncio.run(story())


def test_failures_are_of_the_tree(kind: str) -> None:
    """A deadline that has passed, or work after closing, is a TandemError or an answer."""

    async def story() -> None:
        async with HARNESS[kind](kind) as backend:
            late = replace(Call(id="1"), deadline=asyncio.get_running_loop().time() - 1)
            try:
                async with aclosing(backend.stream(request(), late)) as events:
                    assert [event async for event in events]
            except TandemError as error:
                assert error.message

    asyncio.run(story())


async def _again(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
