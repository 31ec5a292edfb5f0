"""What each provider puts on the wire, as far as we know it (backends/profiles says how sure).

One plain answer per profile, as a stream, whole, and with what is peculiar to it: where usage is,
how thoughts are told, how a tool call comes in pieces, what an error looks like. None was recorded
from a live account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One provider's answers to "What is 2+2?": "four", after thinking "hm" where it thinks.

    `stream` are the chunks of a stream (without [DONE]); `whole` the answer in one piece; `error`
    a refusal of a bad request. `asked_for_usage` is false where `stream_options` would be refused
    or has no effect. `cached`, `reasoning` and `cost` are what its usage says.
    """

    profile: str
    model: str = "m"
    stream: tuple[Mapping[str, Any], ...]
    whole: Mapping[str, Any]
    error: Mapping[str, Any]
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    comments: bool = False
    prompt: int = 20
    completion: int = 5
    cached: int = 0
    reasoning: int = 0
    cost: float | None = None
    thinks: bool = True
    asked_for_usage: bool = True
    error_status: int = 400


def chunk(
    delta: Mapping[str, Any] | None, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [choice], **more}  # fmt: skip


def usage_chunk(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [], "usage": usage}  # fmt: skip


def whole(message: Mapping[str, Any], usage: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    full = {"role": "assistant", **message}
    choice = {"index": 0, "message": full, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [choice], "usage": usage, **more}  # fmt: skip


def counts(**more: Any) -> dict[str, Any]:
    return {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, **more}


def cached_and_reasoning(cached: int, reasoning: int) -> dict[str, Any]:
    return counts(
        prompt_tokens_details={"cached_tokens": cached},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )


ROLE = {"role": "assistant", "content": ""}


def plain(field_name: str | None, *tail: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """role, a thought in `field_name`, the text in two pieces; then `tail`."""
    thought = (chunk({field_name: "hm"}),) if field_name else ()
    return (chunk(ROLE), *thought, chunk({"content": "fo"}), chunk({"content": "ur"}), *tail)


def bad(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


_OPENAI = cached_and_reasoning(8, 2)
_DEEPSEEK = counts(
    prompt_cache_hit_tokens=8,
    prompt_cache_miss_tokens=12,
    completion_tokens_details={"reasoning_tokens": 2},
)
_PERPLEXITY = counts(
    search_context_size="low",
    cost={"input_tokens_cost": 0.00002, "request_cost": 0.005, "total_cost": 0.00504},
)
_OPENROUTER = {**cached_and_reasoning(8, 2), "cost": 0.00095, "cost_details": {}}

WIRES = (
    Wire(
        profile="openai",
        stream=plain(None, chunk({}, "stop"), usage_chunk(_OPENAI)),
        whole=whole({"content": "four", "refusal": None, "annotations": []}, _OPENAI),
        error=bad("Unrecognized request argument supplied: foo", param=None, code=None),
        message="Unrecognized request argument supplied: foo",
        headers={
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "15000",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        cached=8,
        reasoning=2,
        thinks=False,
    ),
    Wire(
        profile="groq",
        stream=plain(
            "reasoning", chunk({}, "stop", x_groq={"id": "req_1", "usage": _OPENAI})
        ),
        whole=whole(
            {"content": "four", "reasoning": "hm"}, {**_OPENAI, "queue_time": 0.1}, x_groq={}
        ),
        error=bad("property 'foo' is unsupported"),
        message="property 'foo' is unsupported",
        headers={
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "9000",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        cached=8,
        reasoning=2,
    ),
    Wire(
        profile="cerebras",
        stream=plain(
            "reasoning",
            chunk({}, "stop", usage=_OPENAI, time_info={"queue_time": 0.1, "total_time": 0.2}),
        ),
        whole=whole({"content": "four", "reasoning": "hm"}, _OPENAI, time_info={}),
        error={"message": "'foo' is not supported", "type": "invalid_request_error",
               "param": "foo", "code": "wrong_api_format"},
        message="'foo' is not supported",
        headers={
            "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-tokens-minute": "30000",
            "x-ratelimit-reset-tokens-minute": "11.382867097854614",
        },
        cached=8,
        reasoning=2,
    ),
    Wire(
        profile="openrouter",
        asked_for_usage=False,
        stream=(
            chunk({**ROLE, "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text"}]},
                  provider="P"),
            chunk({"content": "fo"}),
            chunk({"content": "ur"}),
            {**chunk({}, "stop"), "usage": None},
            {**chunk({"content": ""}), "usage": _OPENROUTER},
        ),
        whole=whole({"content": "four", "reasoning": "hm"}, _OPENROUTER, provider="P"),
        error={"error": {"code": 400, "message": "foo is no parameter", "metadata": {}}},
        message="foo is no parameter",
        comments=True,
        cached=8,
        reasoning=2,
        cost=0.00095,
    ),
    Wire(
        profile="together",
        stream=plain("reasoning", chunk({}, "stop", usage=counts(cached_tokens=8))),
        whole=whole({"content": "four", "reasoning": "hm"}, counts(cached_tokens=8), prompt=[]),
        error=bad("Input validation error", param=None, code=None),
        message="Input validation error",
        cached=8,
    ),
    Wire(
        profile="fireworks",
        stream=plain("reasoning_content", chunk({}, "stop", usage=_OPENAI)),
        whole=whole({"content": "four", "reasoning_content": "hm"}, _OPENAI),
        error={"error": {"object": "error", "type": "invalid_request_error",
                         "message": "Extra inputs are not permitted, field: 'foo'"}},
        message="Extra inputs are not permitted",
        headers={
            "x-ratelimit-limit-tokens-prompt": "60000",
            "x-ratelimit-remaining-tokens-prompt": "30000",
            "x-ratelimit-over-limit": "no",
        },
        cached=8,
        reasoning=2,
    ),
    Wire(
        profile="perplexity",
        asked_for_usage=False,
        stream=tuple(
            {**chunk({"role": "assistant", "content": piece}, end, citations=["https://a.test"]),
             "usage": _PERPLEXITY if end else counts(completion_tokens=1)}
            for piece, end in (("fo", None), ("ur", None), ("", "stop"))
        ),
        whole=whole({"content": "four"}, _PERPLEXITY, citations=["https://a.test"]),
        error=bad("Invalid model 'm'", code=400),
        message="Invalid model 'm'",
        cost=0.00504,
        thinks=False,
    ),
    Wire(
        profile="mistral",
        asked_for_usage=False,
        stream=(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": [{"type": "thinking",
                                "thinking": [{"type": "text", "text": "hm"}]}]}),
            chunk({"content": "fo"}),
            chunk({"content": "ur"}, "stop", usage=counts(num_cached_tokens=8)),
        ),
        whole=whole(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "four"},
                ]
            },
            counts(num_cached_tokens=8),
        ),
        error={"object": "error", "message": {"detail": [{"loc": ["body", "foo"],
               "msg": "Extra inputs are not permitted"}]}, "type": "invalid_request_error"},
        error_status=422,
        message="Extra inputs are not permitted",
        headers={
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "2500000",
            "x-ratelimit-tokens-query-cost": "52",
        },
        cached=8,
    ),
    Wire(
        profile="deepseek",
        stream=plain("reasoning_content", chunk({}, "stop"), usage_chunk(_DEEPSEEK)),
        whole=whole({"content": "four", "reasoning_content": "hm"}, _DEEPSEEK),
        error=bad("Failed to deserialize the JSON body", param=None, code="invalid_request_error"),
        message="Failed to deserialize the JSON body",
        comments=True,
        cached=8,
        reasoning=2,
    ),
    *(
        Wire(
            profile=name,
            stream=plain(
                "reasoning_content",
                chunk({}, "stop", usage=None),
                usage_chunk(counts(prompt_tokens_details={"cached_tokens": 8})),
            ),
            whole=whole(
                {"content": "four", "reasoning_content": "hm", "tool_calls": []},
                counts(prompt_tokens_details={"cached_tokens": 8}),
                prompt_logprobs=None,
            ),
            error={"object": "error", "message": "suffix is not supported",
                   "type": "BadRequestError", "param": None, "code": 400},
            message="suffix is not supported",
            cached=8,
        )
        for name in ("vllm", "sglang", "tensorrt-llm")
    ),
    Wire(
        profile="tgi",
        stream=(chunk({"role": "assistant", "content": "fo"}),
                chunk({"role": "assistant", "content": "ur"}),
                chunk({"role": "assistant", "content": ""}, "stop"),
                usage_chunk(counts())),
        whole=whole({"content": "four"}, counts(), system_fingerprint="3.3.5-sha"),
        error={"error": "Input validation error: `foo`", "error_type": "validation"},
        error_status=422,
        message="Input validation error",
        thinks=False,
    ),
    Wire(
        profile="ollama",
        stream=(chunk({"role": "assistant", "content": "", "reasoning": "hm"}),
                chunk({"role": "assistant", "content": "four"}),
                chunk({"role": "assistant", "content": ""}, "stop"),
                usage_chunk(counts())),
        whole=whole({"content": "four", "reasoning": "hm"}, counts()),
        error={"error": {"message": "model 'm' not found", "type": "api_error",
                         "param": None, "code": None}},
        error_status=404,
        message="model 'm' not found",
    ),
    Wire(
        profile="lmstudio",
        stream=plain("reasoning_content", chunk({}, "stop"), usage_chunk(counts())),
        whole=whole({"content": "four", "reasoning_content": "hm"}, counts(), stats={}),
        error={"error": "Model is unloaded"},
        message="Model is unloaded",
    ),
    Wire(
        profile="llama-server",
        stream=(
            chunk({"role": "assistant", "content": None}),
            chunk({"reasoning_content": "hm"}),
            chunk({"content": "four"}),
            chunk({}, "stop"),
            {**usage_chunk(counts(prompt_tokens_details={"cached_tokens": 8})),
             "timings": {"prompt_n": 12, "predicted_n": 5}},
        ),
        whole=whole({"content": "four", "reasoning_content": "hm"},
                    counts(prompt_tokens_details={"cached_tokens": 8}), timings={}),
        error={"error": {"code": 400, "message": "'messages' is required",
                         "type": "invalid_request_error"}},
        message="'messages' is required",
        cached=8,
    ),
)  # fmt: skip


TOOL_CALLS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    # OpenAI's way, which most follow: id and name first, arguments in pieces.
    "in pieces": (
        chunk({"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": "call_1", "type": "function",
             "function": {"name": "add", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "2}"}}]}),
        chunk({}, "tool_calls"),
    ),
    # Groq, Mistral, Cerebras, Ollama: the whole call in one chunk; Mistral and Ollama have no index
    # at times, and finish in the same chunk.
    "in one": (
        chunk({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_1", "function": {"name": "add", "arguments": '{"a":2}'}}]},
            "tool_calls"),
    ),
    # TGI and older SGLang repeat id and name in each piece.
    "repeating": (
        chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                               "function": {"name": "add", "arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                               "function": {"name": "add", "arguments": ":2}"}}]}),
        chunk({}, "tool_calls"),
    ),
}  # fmt: skip


def sse(chunks: tuple[Mapping[str, Any], ...], *, comments: bool = False) -> bytes:
    """The chunks as a stream's body, with keep-alive comments between them if so."""
    between = b": keep-alive\n\n" if comments else b""
    return (
        b"".join(
            between + b"data: " + json.dumps(each, separators=(",", ":")).encode() + b"\n\n"
            for each in chunks
        )
        + DONE
    )
