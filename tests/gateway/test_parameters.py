from __future__ import annotations

from typing import Any

import pytest

from backends import BACKENDS
from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import PROFILES
from gateway.core.chat import ChatRequest
from gateway.core.errors import InvalidRequest
from gateway.core.exchange import Caller
from gateway.core.routing import Candidate, Upstream, Zone
from gateway.dialects.llama_server import Infill
from gateway.dialects.openai_chat import OpenAIChat
from gateway.filters import admit
from gateway.parameters import STRICT, ignored_fields, strict


def upstream(kind: str, model: str = "m") -> Upstream:
    options = {"kind": kind, "model": model, "base_url": "http://up.test/v1"}
    return OpenAIBackend(kind, OpenAIOptions.model_validate(options), Resources()).upstream


VALUES = {
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
}
"""Of fields that we read ourselves, and so check."""


def chat(**body: Any) -> ChatRequest:
    return OpenAIChat().decode(
        {"model": "x", "messages": [{"role": "user", "content": "hi"}], **body}, {}
    )


MATRIX = [
    # vLLM reads what it knows and drops the rest; so do most servers one runs oneself.
    ("vllm", "stop_token_ids", False),
    ("vllm", "prediction", True),
    ("vllm", "mirostat", True),
    ("sglang", "regex", False),
    ("sglang", "verbosity", True),
    ("tgi", "guideline", False),
    ("tgi", "parallel_tool_calls", True),
    ("ollama", "reasoning_effort", False),
    ("ollama", "keep_alive", True),
    ("lmstudio", "ttl", False),
    ("lmstudio", "prediction", True),
    ("llama-server", "mirostat", False),
    ("llama-server", "guided_json", True),
    # These would refuse the request for it, so it is left out.
    ("tensorrt-llm", "stop_token_ids", False),
    ("tensorrt-llm", "prediction", True),
    ("tensorrt-llm", "parallel_tool_calls", True),
    ("mistral", "safe_prompt", False),
    ("mistral", "web_search_options", True),
    ("groq", "verbosity", True),
    ("groq", "reasoning_format", False),
    ("cerebras", "verbosity", True),
    ("cerebras", "reasoning_effort", False),
    ("deepseek", "verbosity", True),
    ("deepseek", "thinking", False),
    # Their servers say themselves what they do not know, or nobody says.
    ("openai", "made_up", False),
    ("openrouter", "made_up", False),
    ("together", "made_up", False),
    ("fireworks", "made_up", False),
    ("perplexity", "search_recency_filter", False),
    ("companion", "made_up", False),
]
"""(kind, a field, whether it is announced as ignored)"""


def test_every_kind_is_in_the_matrix() -> None:
    """A new profile cannot forget to say what it does with fields that it does not know."""
    assert {kind for kind, _, _ in MATRIX} == set(PROFILES) & set(BACKENDS)


@pytest.mark.parametrize(("kind", "field", "ignored"), MATRIX)
def test_the_matrix(kind: str, field: str, ignored: bool) -> None:
    """What a provider would do nothing with is announced, and nothing else is."""
    asked = chat(**{field: VALUES.get(field, "x")})
    assert ignored_fields(asked, upstream(kind)) == ((field,) if ignored else ())


@pytest.mark.parametrize("kind", sorted(set(PROFILES) & set(BACKENDS)))
def test_an_ordinary_request_has_nothing_to_announce(kind: str) -> None:
    """What every client sends is honoured everywhere, or changes nothing about the answer."""
    asked = chat(
        temperature=0,
        top_p=1,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
        stop=["x"],
        n=1,
        logprobs=False,
        presence_penalty=0,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        user="me",
        metadata={"a": "b"},
        store=False,
        made_up=None,
    )
    assert ignored_fields(asked, upstream(kind)) == ()


def test_a_thinking_model_ignores_the_temperature() -> None:
    """A fact about one model is none about its provider."""
    asked = chat(temperature=0.7)
    assert ignored_fields(asked, upstream("deepseek", "deepseek-reasoner")) == ("temperature",)
    assert ignored_fields(asked, upstream("deepseek", "deepseek-v4-flash")) == ()


def test_another_dialects_fields_are_announced() -> None:
    """A body that is written anew for the upstream carries only what is read."""
    asked = Infill().decode(
        {"input_prefix": "a", "input_suffix": "b", "mirostat": 2, "t_max_predict_ms": 9}, {}
    )
    assert ignored_fields(asked, upstream("llama-server")) == ("mirostat",)


def test_strict_leaves_only_who_honours() -> None:
    """In strict mode what would ignore a field is out, by that field's name; the others stay."""
    both = [Candidate(upstream=upstream(kind)) for kind in ("vllm", "llama-server")]
    asked = chat(mirostat=2)
    kept, _ = admit(asked, both, Zone.PUBLIC, Caller(), {})
    assert len(kept) == 2
    kept, rejected = admit(asked, both, Zone.PUBLIC, Caller(), {}, strict=True)
    assert [candidate.upstream.name for candidate in kept] == ["llama-server"]
    assert [(each.upstream, each.param) for each in rejected] == [("vllm", "mirostat")]


@pytest.mark.parametrize(
    ("said", "default", "wanted"),
    [(None, False, False), (None, True, True), ("1", False, True), (" True ", False, True),
     ("0", True, False), ("false", True, False)],
)  # fmt: skip
def test_who_decides_on_strictness(said: str | None, default: bool, wanted: bool) -> None:
    """A request's header decides, else the configuration."""
    headers = {} if said is None else {STRICT: said}
    assert strict(headers, default) is wanted


def test_a_strictness_that_is_none_is_refused() -> None:
    """A header that says neither is an error, not a guess."""
    with pytest.raises(InvalidRequest) as caught:
        strict({STRICT: "maybe"}, False)
    assert caught.value.param == STRICT
