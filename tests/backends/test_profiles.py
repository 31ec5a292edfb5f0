from __future__ import annotations

import asyncio
from contextlib import aclosing

import httpx
import pytest

from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import PROFILES, profile_for
from gateway.core.chat import Feature
from gateway.core.errors import UpstreamFailed
from gateway.core.exchange import Call
from gateway.dialects.openai_chat import OpenAIChat


@pytest.mark.parametrize(
    ("kind", "base_url", "named", "profile"),
    [
        ("openai", None, None, "openai"),
        ("openai", "https://api.openai.com/v1", None, "openai"),
        ("openai", "https://api.mistral.ai/v1", None, "mistral"),
        ("openai", "http://127.0.0.1:1234/v1", None, "generic"),
        ("openai", "https://api.openai.com.evil.example/v1", None, "generic"),
        ("openai", "http://127.0.0.1:8000/v1", "vllm", "vllm"),
        ("groq", None, None, "groq"),
        ("vllm", "http://gpu:8000", None, "vllm"),
        ("companion", "http://gpu:8090", None, "companion"),
        ("openai", "https://api.deepseek.com", None, "deepseek"),
        ("openai", "https://api.perplexity.ai", None, "perplexity"),
        ("llama-server", "http://127.0.0.1:8080", None, "llama-server"),
        ("tensorrt-llm", "http://gpu:8000", None, "tensorrt-llm"),
        ("something", "http://gpu:8090", None, "generic"),
    ],
)
def test_which_profile(kind: str, base_url: str | None, named: str | None, profile: str) -> None:
    """A profile is the one named, else the kind's own, else the one whose address it is."""
    assert profile_for(kind, base_url, named).name == profile


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_can_be_used(name: str) -> None:
    """Each profile is listed under its own name, chats, and has an address or is self-hosted."""
    profile = PROFILES[name]
    assert profile.name == name
    assert Feature.CHAT in profile.features
    assert (profile.base_url is None) == profile.self_hosted
    assert profile.health_path is None or profile.self_hosted


@pytest.mark.parametrize(
    ("profile", "feature"),
    [
        ("groq", Feature.LOGPROBS),
        ("groq", Feature.LOGIT_BIAS),
        ("groq", Feature.N),
        ("groq", Feature.COMPLETION),
        ("vllm", Feature.FIM),
        ("cerebras", Feature.PENALTIES),
        ("generic", Feature.LOGPROBS),
        ("mistral", Feature.COMPLETION),
        ("perplexity", Feature.TOOLS),
        ("deepseek", Feature.LOGPROBS),
        ("tensorrt-llm", Feature.FIM),
        ("tgi", Feature.N),
        ("tgi", Feature.LOGIT_BIAS),
        ("ollama", Feature.LOGIT_BIAS),
        ("lmstudio", Feature.N),
        ("llama-server", Feature.MIN_TOKENS),
    ],
)
def test_what_a_provider_lacks(profile: str, feature: Feature) -> None:
    """What a provider rejects or ignores is not among its features."""
    assert feature not in PROFILES[profile].features


def test_legacy_models() -> None:
    """OpenAI serves /completions for its instruct models only."""
    openai = PROFILES["openai"]
    legacy = {Feature.COMPLETION, Feature.FIM}
    assert legacy <= openai.features_for("gpt-3.5-turbo-instruct")
    assert not legacy & openai.features_for("gpt-4o-mini")
    assert Feature.COMPLETION in PROFILES["vllm"].features_for("anything")


@pytest.mark.parametrize(
    ("kind", "base_url", "url"),
    [
        ("openai", None, "https://api.openai.com/v1/chat/completions"),
        ("groq", None, "https://api.groq.com/openai/v1/chat/completions"),
        ("cerebras", None, "https://api.cerebras.ai/v1/chat/completions"),
        ("openrouter", None, "https://openrouter.ai/api/v1/chat/completions"),
        ("together", None, "https://api.together.xyz/v1/chat/completions"),
        ("fireworks", None, "https://api.fireworks.ai/inference/v1/chat/completions"),
        ("perplexity", None, "https://api.perplexity.ai/chat/completions"),
        ("mistral", None, "https://api.mistral.ai/v1/chat/completions"),
        ("deepseek", None, "https://api.deepseek.com/chat/completions"),
        ("sglang", "http://gpu:30000", "http://gpu:30000/v1/chat/completions"),
        ("tensorrt-llm", "http://gpu:8000/v1", "http://gpu:8000/v1/chat/completions"),
        ("tgi", "http://gpu:3000/", "http://gpu:3000/v1/chat/completions"),
        ("ollama", "http://near:11434", "http://near:11434/v1/chat/completions"),
        ("lmstudio", "http://near:1234/v1/", "http://near:1234/v1/chat/completions"),
        ("llama-server", "http://near:8080", "http://near:8080/v1/chat/completions"),
    ],
)
def test_where_it_is_asked(kind: str, base_url: str | None, url: str) -> None:
    """A kind alone finds its provider; a server of one's own is found however it is written."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(500)

    options = OpenAIOptions.model_validate({"kind": kind, "model": "m", "base_url": base_url})
    resources = Resources(transport=lambda: httpx.MockTransport(answer))
    backend = OpenAIBackend("up", options, resources)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    async def story() -> None:
        async with aclosing(backend.stream(OpenAIChat().decode(body, {}), Call(id="1"))) as events:
            await anext(events)

    with pytest.raises(UpstreamFailed):
        asyncio.run(story())
    assert asked == [url]


def test_an_operator_who_knows_better_is_believed() -> None:
    """A feature that is added in the configuration opens its fields, refused or not."""
    for name in ("groq", "mistral"):
        profile = PROFILES[name]
        body = {"model": "m", "messages": [], "logprobs": True, "top_logprobs": 2, "odd": 1}
        closed = profile.gate(profile.features).kept(body)
        opened = profile.gate(profile.features | {Feature.LOGPROBS}).kept(body)
        assert not closed.keys() & {"logprobs", "top_logprobs"}
        assert opened.keys() >= {"logprobs", "top_logprobs"}
        assert ("odd" in opened) == (name == "groq")


def test_a_body_that_nobody_refuses_is_not_copied() -> None:
    """The usual upstream costs nothing: what refuses no field hands the same body back."""
    body = {"model": "m"}
    assert PROFILES["vllm"].gate(PROFILES["vllm"].features).kept(body) is body
