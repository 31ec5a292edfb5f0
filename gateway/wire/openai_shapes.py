"""What both OpenAI dialects share: sampling fields, usage, errors and SSE framing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.core.chat import Feature, Sampling, TokenLogprob, Usage
from gateway.core.errors import InvalidRequest, TandemError
from gateway.wire import fields
from gateway.wire.fields import Body

MAX_STOPS = 64
"""OpenAI takes 4; Continue sends 12 for Qwen and older Zed 14 (clients.md trap 5)."""

MAX_BIASES = 1024

DONE = b"data: [DONE]\n\n"

PLAIN = frozenset(
    "model messages prompt stream stream_options max_tokens max_completion_tokens temperature "
    "top_p user metadata store service_tier".split()
)
"""Fields that ask for no ability. A body of these alone, as most are, need not be looked through
for the thirty others."""

NOTHING_SAID = Sampling()


def sampling(body: Body, *, max_tokens: int | None) -> tuple[Sampling, set[Feature]]:
    """The sampling fields, and the abilities that they ask for."""
    if body.keys() <= PLAIN:
        temperature, top_p = (
            fields.number(body, "temperature", 0, 2),
            fields.number(body, "top_p", 0, 1),
        )
        if max_tokens is None and temperature is None and top_p is None:
            return NOTHING_SAID, set()
        return Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p), set()
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
        typical_p=fields.number(body, "typical_p", 0, 1),
        repeat_penalty=_repeat_penalty(body),
        repeat_last_n=fields.integer(body, "repeat_last_n", -1),
        dry_multiplier=fields.number(body, "dry_multiplier", 0, 100) or 0.0,
        dry_base=fields.number(body, "dry_base", 1, 100),
        dry_allowed_length=fields.integer(body, "dry_allowed_length", 0, 2**31 - 1),
        dry_penalty_last_n=fields.integer(body, "dry_penalty_last_n", -1),
        logit_bias=_logit_bias(body),
        ignore_eos=fields.boolean(body, "ignore_eos"),
        min_tokens=fields.integer(body, "min_tokens", 0) or 0,
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
    if settings.logit_bias:
        needs.add(Feature.LOGIT_BIAS)
    if settings.typical_p is not None:
        needs.add(Feature.TYPICAL_P)
    if settings.repeat_penalty is not None:
        needs.add(Feature.REPEAT_PENALTY)
    if settings.dry_multiplier:
        needs.add(Feature.DRY)
    if settings.ignore_eos:
        needs.add(Feature.IGNORE_EOS)
    if settings.min_tokens:
        needs.add(Feature.MIN_TOKENS)
    if (fields.integer(body, "n", 1, 128) or 1) > 1:
        needs.add(Feature.N)
    return settings, needs


def _repeat_penalty(body: Body) -> float | None:
    """llama.cpp's name for it first, then vLLM's."""
    for name in ("repeat_penalty", "repetition_penalty"):
        value = fields.number(body, name, 0, 10)
        if value == 0:
            raise InvalidRequest(f"{name!r} must be above 0.", param=name)
        if value is not None:
            return value
    return None


def _logit_bias(body: Body) -> tuple[tuple[int, float], ...]:
    biases = fields.mapping(body, "logit_bias")
    if len(biases) > MAX_BIASES:
        raise InvalidRequest(
            f"'logit_bias' holds more than {MAX_BIASES} tokens.", param="logit_bias"
        )
    read = []
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise InvalidRequest("'logit_bias' has keys that are no token ids.", param="logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise InvalidRequest("'logit_bias' has numbers from -100 to 100.", param="logit_bias")
        read.append((int(token), float(bias)))
    return tuple(read)


def logprob_json(entry: TokenLogprob) -> dict[str, Any]:
    """One token, as chat completions show it."""
    return {
        **_token_json(entry),
        "top_logprobs": [_token_json(other) for other in entry.top],
    }


def _token_json(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}


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
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
        },
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
            **error.details,
        }
    }
