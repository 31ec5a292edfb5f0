"""OpenAIBackend behind a mocked transport: bodies sent, answers read, providers' particulars."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
import respx
from pydantic import ValidationError

from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.core.chat import ChatRequest, Endpoint, Feature, Sampling
from gateway.core.errors import (
    LocalUnavailable,
    TandemError,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamUnreachable,
)
from gateway.core.events import (
    Document,
    Event,
    Finish,
    Frame,
    ReasoningDelta,
    TextDelta,
    UsageReport,
)
from gateway.core.exchange import Call
from gateway.core.routing import Tier, Zone
from tests.fakes.upstream import DONE, chunk, data, finish, role, usage

KEY = "sk-canary-0123456789"
GROQ = "https://api.groq.com/openai/v1/chat/completions"
VLLM = "http://gpu:8000/v1/chat/completions"


def backend(handler: Callable[..., Any], **options: Any) -> OpenAIBackend:
    if options.setdefault("kind", "groq") == "groq":
        options.setdefault("model", "llama-3.3-70b-versatile")
    else:
        options.setdefault("base_url", "http://gpu:8000/v1")
    resources = Resources(transport=lambda: httpx.MockTransport(handler))
    return OpenAIBackend("up", OpenAIOptions(**options), resources)


def chat(stream: bool = True, **body: Any) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="auto",
        stream=stream,
        body={"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body},
    )


async def events_of(upstream: OpenAIBackend, request: ChatRequest) -> list[Event]:
    try:
        return [event async for event in upstream.stream(request, Call(id="r"))]
    finally:
        await upstream.aclose()


def ask(upstream: OpenAIBackend, request: ChatRequest | None = None) -> list[Event]:
    return asyncio.run(events_of(upstream, request or chat()))


def failure(upstream: OpenAIBackend, request: ChatRequest | None = None) -> TandemError:
    with pytest.raises(TandemError) as caught:
        ask(upstream, request)
    return caught.value


def stream_of(*frames: bytes) -> httpx.Response:
    return httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=b"".join(frames)
    )


def whole(text: str = "hi") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


class Recorder:
    """Answers every request alike and keeps what was asked."""

    def __init__(self, response: Callable[[], httpx.Response] | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._response = response or (lambda: stream_of(chunk("hi"), finish(), DONE))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._response()

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


def test_groq_stream() -> None:
    """Groq's usage in `x_groq` is found, and each frame travels with one event, byte for byte."""
    last = orjson.loads(finish()[6:])
    last["x_groq"] = {"id": "req", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    frames = [role(), chunk("hi"), data(last)]
    with respx.mock(assert_all_mocked=True) as router:
        route = router.post(GROQ).mock(return_value=stream_of(*frames, DONE))
        resources = Resources(transport=lambda: httpx.MockTransport(router.async_handler))
        options = OpenAIOptions(kind="groq", model="llama", api_key=KEY)
        events = ask(OpenAIBackend("up", options, resources))
    assert [type(event) for event in events] == [Frame, TextDelta, Finish, UsageReport]
    assert [event.frame for event in events] == [*frames, None]
    [report] = [event for event in events if isinstance(event, UsageReport)]
    assert not report.alone
    assert (report.usage.prompt_tokens, report.usage.completion_tokens) == (5, 1)
    assert route.calls.last.request.headers["authorization"] == f"Bearer {KEY}"


def test_groq_rate_limit() -> None:
    """Groq's 429 says when to come back, and does not name its limits to the client."""
    headers = {
        "retry-after": "3",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "2.99s",
    }
    body = {"error": {"message": "Rate limit for organization org_x", "code": "rate_limit"}}
    with respx.mock() as router:
        router.post(GROQ).mock(return_value=httpx.Response(429, headers=headers, json=body))
        error = failure(backend(router.async_handler))
    assert isinstance(error, UpstreamOverloaded)
    assert error.retry_after == 3.0
    assert "org_x" not in error.message


def test_vllm_stream() -> None:
    """vLLM's null usage, reasoning deltas and usage chunk are read; its finish is not doubled."""
    frames = [
        data({"choices": [{"index": 0, "delta": {"role": "assistant"}}], "usage": None}),
        data({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}], "usage": None}),
        chunk("yes"),
        finish("length"),
        usage(7, 2),
    ]
    with respx.mock() as router:
        router.post(VLLM).mock(return_value=stream_of(*frames, DONE))
        events = ask(backend(router.async_handler, kind="vllm", model="qwen"))
    kinds = [Frame, ReasoningDelta, TextDelta, Finish, UsageReport]
    assert [type(event) for event in events] == kinds
    assert [event.frame for event in events] == frames
    assert isinstance(events[-1], UsageReport) and events[-1].alone


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
        {"error": {"message": "too long", "type": "BadRequestError", "code": 400}},
    ],
)
def test_vllm_errors(body: Any) -> None:
    """vLLM's errors, in their older and newer shape, keep their message."""
    error = failure(
        backend(Recorder(lambda: httpx.Response(400, json=body)), kind="vllm", model="q")
    )
    assert (error.status, error.retryable) == (400, False)
    assert "too long" in error.message


def test_vllm_tells_its_model_and_context() -> None:
    """A vLLM box is asked once what it serves, and the operator's own words stay."""

    def box(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://gpu:8000/v1/models"
        return httpx.Response(200, json={"data": [{"id": "qwen", "max_model_len": 4096}]})

    async def scenario(**options: Any) -> tuple[str, int | None]:
        upstream = backend(box, kind="vllm", **options)
        await upstream.start()
        await upstream.aclose()
        return upstream.upstream.model, upstream.upstream.context

    assert asyncio.run(scenario()) == ("qwen", 4096)
    assert asyncio.run(scenario(base_url="http://gpu:8000", context=100)) == ("qwen", 100)


def test_server_that_comes_up_later() -> None:
    """A box that is down at the start is unhealthy, refuses work, and is asked again once up."""
    up = False

    def box(request: httpx.Request) -> httpx.Response:
        if not up:
            raise httpx.ConnectError("refused")
        if request.url.path == "/health":
            return httpx.Response(200)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "qwen"}]})
        return httpx.Response(200, json=whole())

    async def scenario() -> None:
        nonlocal up
        upstream = backend(box, kind="vllm")
        await upstream.start()
        assert not (await upstream.health()).ok
        with pytest.raises(UpstreamUnreachable):
            await anext(upstream.stream(chat(), Call(id="r")))
        up = True
        assert (await upstream.health()).ok
        assert upstream.upstream.model == "qwen"
        await upstream.aclose()

    asyncio.run(scenario())


def test_companion_tells_its_features() -> None:
    """A companion is probed at /readyz and believed about what it can do."""

    def companion(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(200)
        entry = {"id": "big", "context_length": 512, "features": ["chat", "suffix", "tools"]}
        return httpx.Response(200, json={"data": [entry]})

    async def scenario() -> None:
        upstream = backend(
            companion,
            kind="companion",
            base_url="http://gpu:8090",
            zone="machine",
            tier="cloud",
            without_features=["tools"],
        )
        await upstream.start()
        assert (await upstream.health()).ok
        assert upstream.upstream.context == 512
        assert upstream.upstream.features == {Feature.CHAT}
        assert (upstream.upstream.tier, upstream.upstream.zone) == (Tier.CLOUD, Zone.MACHINE)
        await upstream.aclose()

    asyncio.run(scenario())


def test_health_of_a_paid_api_is_passive() -> None:
    """A provider's API is never probed: that costs money or quota."""
    recorder = Recorder()
    upstream = backend(recorder)
    assert asyncio.run(upstream.health()).ok
    assert recorder.requests == []


def test_body_is_the_clients_own() -> None:
    """Unknown fields and their order survive; only the model and what streaming needs change."""
    recorder = Recorder()
    ask(backend(recorder), chat(stream=True, x_new={"a": [1]}, temperature=0))
    assert list(recorder.body) == [
        "model", "messages", "x_new", "temperature", "stream", "stream_options",
    ]  # fmt: skip
    assert recorder.body["model"] == "llama-3.3-70b-versatile"
    assert recorder.body["x_new"] == {"a": [1]}
    assert recorder.body["stream_options"] == {"include_usage": True}


def test_the_request_itself_is_not_touched() -> None:
    """What is sent is a copy: a fallback to the next upstream starts from the client's body."""
    request = chat(stream_options={"include_usage": False}, max_completion_tokens=3)
    before = json.dumps(request.body)
    backend(Recorder(), kind="openai", model="m").body(request)
    assert json.dumps(request.body) == before


def test_stream_options_are_merged() -> None:
    """Usage is asked for, and the client's other stream options stay."""
    sent = backend(Recorder()).body(chat(stream_options={"include_obfuscation": False}))
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_whole_answer_is_not_asked_to_stream() -> None:
    """A request that does not stream is sent without stream fields of ours."""
    recorder = Recorder(lambda: httpx.Response(200, json=whole()))
    ask(backend(recorder), chat(stream=False))
    assert list(recorder.body) == ["model", "messages"]


def test_mistral_spelling() -> None:
    """Mistral, strict about unknown members, gets its own names and no stream options."""
    sent = backend(Recorder(), kind="openai", base_url="https://api.mistral.ai/v1", model="m").body(
        chat(seed=3, max_completion_tokens=9, stream_options={"include_usage": True})
    )
    assert (sent["random_seed"], sent["max_tokens"]) == (3, 9)
    assert not {"seed", "max_completion_tokens", "stream_options"} & set(sent)


def test_openrouter_must_honour_parameters() -> None:
    """OpenRouter is told not to ignore parameters, unless the client has its own wishes."""
    upstream = backend(
        Recorder(), kind="openai", base_url="https://openrouter.ai/api/v1", model="m"
    )
    assert upstream.body(chat())["provider"] == {"require_parameters": True}
    assert upstream.body(chat(provider={"order": ["x"]}))["provider"] == {"order": ["x"]}


def test_whole_answer() -> None:
    """A whole answer is one Document with the upstream's own bytes and its usage."""
    document = {**whole("héllo"), "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    raw = json.dumps(document, indent=1).encode()
    headers = {"content-type": "application/json; charset=utf-8"}
    recorder = Recorder(lambda: httpx.Response(200, headers=headers, content=raw))
    [event] = ask(backend(recorder), chat(stream=False))
    assert isinstance(event, Document)
    assert event.frame == raw
    assert event.completion.choices[0].text == "héllo"
    assert event.completion.usage is not None


def test_another_dialect() -> None:
    """An /infill request becomes a completion with a suffix, and foreign frames are not kept."""
    recorder = Recorder(
        lambda: stream_of(
            data({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}), DONE
        )
    )
    request = ChatRequest(
        endpoint=Endpoint.INFILL,
        dialect="llama_server",
        model="auto",
        prompt="a",
        suffix="b",
        sampling=Sampling(max_tokens=4),
        stream=True,
        body={"input_prefix": "a"},
    )
    events = ask(backend(recorder, kind="companion", model="big"), request)
    assert recorder.requests[0].url.path == "/v1/completions"
    assert events == [TextDelta(text="x"), Finish(reason="stop")]
    assert recorder.body == {
        "prompt": "a",
        "suffix": "b",
        "max_tokens": 4,
        "model": "big",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_request_headers() -> None:
    """What goes out is ours alone: no compression asked for, no cookies, no proxy headers."""
    recorder = Recorder()
    ask(backend(recorder))
    assert set(recorder.requests[0].headers) == {
        "host", "accept", "accept-encoding", "content-type", "content-length", "user-agent",
    }  # fmt: skip
    assert recorder.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("zone", [Zone.MACHINE, Zone.ORGANISATION])
def test_zone_is_checked_once_more(zone: Zone) -> None:
    """A request outside whose zone the upstream lies opens no connection to it."""
    recorder = Recorder()
    upstream = backend(recorder)

    async def scenario() -> None:
        with pytest.raises(LocalUnavailable):
            await anext(upstream.stream(chat(), Call(id="r", zone=zone)))

    asyncio.run(scenario())
    assert recorder.requests == []


def test_error_in_the_first_frame() -> None:
    """An error where the answer should begin is raised before anything is yielded."""
    recorder = Recorder(lambda: stream_of(data({"error": {"message": "no GPU", "code": "no_gpu"}})))
    error = failure(backend(recorder))
    assert isinstance(error, UpstreamFailed)
    assert "no_gpu" in error.message


def test_error_event() -> None:
    """An event named `error` is one even if its data does not say so."""
    frame = b'event: error\ndata: {"message":"overload"}\n\n'
    error = failure(backend(Recorder(lambda: stream_of(frame))))
    assert isinstance(error, UpstreamFailed)


def test_no_secret_shows() -> None:
    """The key is in no repr, no error, and not in the sentence that refuses it."""
    echo = httpx.Response(400, json={"error": {"message": f"bad {KEY}", "param": KEY}})
    upstream = backend(lambda request: echo, api_key=KEY)
    error = failure(upstream)
    shown = [repr(upstream.options), repr(upstream.upstream), str(upstream.options), repr(upstream)]
    shown += [error.message, repr(error), str(error.param), repr(vars(error))]
    with pytest.raises(ValidationError) as caught:
        OpenAIOptions(kind="groq", model="m", api_key=f"{KEY}\r\nx-evil: 1")
    shown.append(str(caught.value))
    assert not [text for text in shown if KEY in text]


def test_credential_refused() -> None:
    """A refused credential is ours, not the client's: 502, and another candidate may serve."""
    error = failure(backend(Recorder(lambda: httpx.Response(401, json={}))))
    assert type(error) is UpstreamError
    assert (error.status, error.code, error.retryable) == (502, "upstream_auth", True)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "vllm"},
        {"kind": "groq"},
        {"kind": "groq", "model": "m", "base_url": "ftp://x/v1"},
        {"kind": "groq", "model": "m", "base_url": "https://user:pass@x/v1"},
        {"kind": "groq", "model": "m", "base_url": "https://x/v1?key=1"},
        {"kind": "groq", "model": "m", "base_url": "https://x:99999/v1"},
        {"kind": "groq", "model": "m", "profile": "nonesuch"},
        {"kind": "groq", "model": "m", "headers": {"x": "y"}},
        {"kind": "groq", "model": "m", "timeouts": {"idle": 0}},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """An entry that could not work, or would carry secrets in its address, is refused at load."""
    with pytest.raises(ValidationError) as caught:
        OpenAIOptions(**options)
    assert "pass" not in str(caught.value).replace("parsing", "")


def test_empty_key_is_no_key() -> None:
    """An unset environment reference means no key, not an empty credential."""
    assert OpenAIOptions(kind="vllm", base_url="http://x", api_key="").api_key is None
