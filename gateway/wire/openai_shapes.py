"""What both OpenAI dialects share: sampling fields, usage, errors and SSE framing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.core.chat import Feature, Sampling, Usage
from gateway.core.errors import TandemError
from gateway.wire import fields
from gateway.wire.fields import Body

MAX_STOPS = 64
"""OpenAI takes 4; Continue sends 12 for Qwen and older Zed 14 (clients.md trap 5)."""

DONE = b"data: [DONE]\n\n"


def sampling(body: Body, *, max_tokens: int | None) -> tuple[Sampling, set[Feature]]:
    """The sampling fields, and the abilities that they ask for."""
    settings = Sampling(
        max_tokens=max_tokens,
        temperature=fields.number(body, "temperature", 0, 2),
        top_p=fields.number(body, "top_p", 0, 1),
        top_k=fields.integer(body, "top_k", -1),
        min_p=fields.number(body, "min_p", 0, 1),
        seed=fields.integer(body, "seed", -(2**63)),
        stop=fields.strings(body, "stop", at_most=MAX_STOPS),
        frequency_penalty=fields.number(body, "frequency_penalty", -2, 2) or 0.0,
        presence_penalty=fields.number(body, "presence_penalty", -2, 2) or 0.0,
    )
    needs = set()
    if settings.top_k is not None:
        needs.add(Feature.TOP_K)
    if settings.min_p is not None:
        needs.add(Feature.MIN_P)
    if settings.seed is not None:
        needs.add(Feature.SEED)
    if settings.frequency_penalty or settings.presence_penalty:
        needs.add(Feature.PENALTIES)
    if fields.mapping(body, "logit_bias"):
        needs.add(Feature.LOGIT_BIAS)
    if (fields.integer(body, "n", 1, 128) or 1) > 1:
        needs.add(Feature.N)
    return settings, needs


def stream_options(body: Body) -> tuple[bool, bool]:
    """(stream, include_usage)"""
    stream = fields.boolean(body, "stream")
    options = fields.mapping(body, "stream_options")
    return stream, stream and fields.boolean(options, "include_usage")


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_body(error: TandemError) -> bytes:
    """OpenAI's error object, with all four keys always present."""
    return orjson.dumps(error_json(error))


def error_json(error: TandemError) -> Mapping[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    return b": " + text.replace("\n", " ").encode() + b"\n\n"
