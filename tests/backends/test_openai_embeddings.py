"""Embeddings at upstreams on OpenAI's wire: what is sent, what comes, which models have them."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import httpx
import orjson
import pytest
import respx

from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import PROFILES
from gateway.core.chat import ChatRequest, Feature
from gateway.core.errors import (
    InvalidRequest,
    TandemError,
    UpstreamBroken,
    UpstreamOverloaded,
    UpstreamRejected,
)
from gateway.core.events import Document
from gateway.core.exchange import Call
from gateway.dialects.openai_embeddings import OpenAIEmbeddings
from gateway.wire import vectors

SMALL = "text-embedding-3-small"
ONE, TWO = vectors.pack([0.6, 0.8, 0.0]), vectors.pack([0.0, 0.6, 0.8])


def asking(given: Any = ("a", "b"), **more: Any) -> ChatRequest:
    given = list(given) if isinstance(given, tuple) else given
    return OpenAIEmbeddings().decode({"model": "m", "input": given, **more}, {})


def reply(*entries: bytes, base64: bool) -> bytes:
    form = vectors.to_base64 if base64 else vectors.unpack
    data = [
        {"object": "embedding", "index": i, "embedding": form(v)} for i, v in enumerate(entries)
    ]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    # Members of the provider's own, which ride along where nothing must change.
    return orjson.dumps({"object": "list", "own": 1, "data": data, "model": "x", "usage": usage})


def ask(
    request: ChatRequest, response: httpx.Response, **options: Any
) -> tuple[Document, dict[str, Any]]:
    """The answer, and the body that was sent for it."""
    options = {"kind": "openai", "model": SMALL, "api_key": "sk-canary", **options}
    url = f"{options.get('base_url', 'https://api.openai.com/v1').removesuffix('/v1')}/v1"

    async def story(router: respx.MockRouter) -> Document:
        resources = Resources(transport=lambda: httpx.MockTransport(router.async_handler))
        backend = OpenAIBackend("up", OpenAIOptions(**options), resources)
        try:
            async with aclosing(backend.stream(request, Call(id="r"))) as events:
                [event] = [event async for event in events]
        finally:
            await backend.aclose()
        assert isinstance(event, Document)
        return event

    with respx.mock(assert_all_mocked=True) as router:
        route = router.post(f"{url}/embeddings").mock(return_value=response)
        event = asyncio.run(story(router))
        return event, json.loads(route.calls.last.request.content)


def answer(content: bytes, status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=content)


@pytest.mark.parametrize("base64", [False, True])
def test_what_is_as_asked_passes_untouched(base64: bool) -> None:
    """The client's body goes out with the model's name, and the upstream's bytes come back."""
    raw = reply(ONE, TWO, base64=base64)
    form = {"encoding_format": "base64"} if base64 else {}
    event, sent = ask(asking(dimensions=3, user="u", **form), answer(raw))
    assert sent == {"model": SMALL, "input": ["a", "b"], "dimensions": 3, "user": "u", **form}
    assert event.frame == raw
    assert event.completion.vectors == (ONE, TWO)
    assert event.completion.usage is not None
    assert event.completion.usage.prompt_tokens == 2


@pytest.mark.parametrize("asked", ["float", "base64"])
def test_the_other_format_is_made_what_was_asked(asked: str) -> None:
    """Floats for a client that wants base64, and the other way round, are converted."""
    request = asking(encoding_format=asked)
    event, _ = ask(request, answer(reply(ONE, TWO, base64=asked == "float")))
    assert event.frame is None
    assert event.completion.vectors == (ONE, TWO)


def test_only_some_are_asked_for_base64() -> None:
    """A provider whose documentation knows no base64 is asked for what it has."""
    request = asking(encoding_format="base64")
    event, sent = ask(
        request,
        answer(reply(ONE, TWO, base64=False)),
        base_url="http://127.0.0.1:11434/v1",
        model="nomic-embed-text",
        api_key=None,
    )
    assert sent == {"model": "nomic-embed-text", "input": ["a", "b"]}
    assert event.completion.vectors == (ONE, TWO)


def test_mistral_spells_dimensions_its_own_way() -> None:
    """`dimensions` goes to Mistral as `output_dimension`."""
    _, sent = ask(
        asking(dimensions=3),
        answer(reply(ONE, TWO, base64=False)),
        base_url="https://api.mistral.ai/v1",
        model="codestral-embed",
    )
    assert sent == {"model": "codestral-embed", "input": ["a", "b"], "output_dimension": 3}


def test_dimensions_that_were_ignored_are_honoured_here() -> None:
    """A longer vector than asked for is shortened to length one; a shorter one is a 400."""
    event, _ = ask(asking(dimensions=2), answer(reply(ONE, TWO, base64=False)))
    assert event.frame is None
    assert event.completion.vectors == (vectors.pack([0.6, 0.8]), vectors.pack([0.0, 1.0]))
    with pytest.raises(InvalidRequest) as caught:
        ask(asking(dimensions=4), answer(reply(ONE, TWO, base64=False)))
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(b'{"error":{"message":"too long","code":"x"}}', 400), UpstreamRejected),
        (answer(b'{"error":{"message":"slow down"}}', 429), UpstreamOverloaded),
        (answer(b'{"error":{"message":"slow down","code":429}}'), UpstreamOverloaded),
        (answer(reply(ONE, base64=False)), UpstreamBroken),
        (answer(b"{"), UpstreamBroken),
    ],
)
def test_failures_are_of_the_tree(response: httpx.Response, expected: type[TandemError]) -> None:
    """A refusal, an overload, an error under 200, a vector too few: the same errors as for chat."""
    with pytest.raises(expected):
        ask(asking(), response)


@pytest.mark.parametrize(
    ("profile", "model", "embeds", "talks"),
    [
        ("openai", SMALL, True, False),
        ("openai", "gpt-4o", False, True),
        ("mistral", "mistral-embed", True, False),
        ("mistral", "mistral-small-latest", False, True),
        ("vllm", "BAAI/bge-m3", True, False),
        ("vllm", "Qwen/Qwen3-Embedding-0.6B", True, False),
        ("vllm", "Qwen/Qwen2.5-Coder-32B-Instruct", False, True),
        ("together", "intfloat/multilingual-e5-large-instruct", True, False),
        ("generic", "nomic-embed-text", True, False),
        ("groq", "embed-anything", False, True),
    ],
)
def test_which_models_embed(profile: str, model: str, embeds: bool, talks: bool) -> None:
    """An embedding model is known by its name where the provider has the endpoint at all."""
    features = PROFILES[profile].features_for(model)
    assert (Feature.EMBEDDINGS in features, Feature.CHAT in features) == (embeds, talks)


def test_the_operator_knows_better() -> None:
    """`extra_features: [embeddings]` gives them to a model whose name does not tell."""
    options = OpenAIOptions(
        kind="vllm",
        base_url="http://gpu:8000",
        model="house-model",
        extra_features=(Feature.EMBEDDINGS,),
    )
    backend = OpenAIBackend("up", options, Resources())
    assert Feature.EMBEDDINGS in backend.upstream.features
    asyncio.run(backend.aclose())
