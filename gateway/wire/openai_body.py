"""A ChatRequest of any dialect as an OpenAI request body. Pure.

For upstreams whose wire is not the client's own; where it is, the client's body goes on as it is.
"""

from __future__ import annotations

from typing import Any

from gateway.core.chat import ChatRequest, Endpoint, Sampling


def openai_body(request: ChatRequest) -> dict[str, Any]:
    """The body, without `model`, `stream` and `stream_options`, which are the sender's matter."""
    body: dict[str, Any]
    if request.endpoint is Endpoint.CHAT:
        body = {
            "messages": [
                dict(turn.raw) or {"role": turn.role, "content": turn.text}
                for turn in request.messages
            ]
        }
    else:
        body = {"prompt": _prompt(request)}
        if request.suffix is not None:
            body["suffix"] = request.suffix
    body.update(_sampling(request.sampling))
    return body


def _prompt(request: ChatRequest) -> str | list[int]:
    if isinstance(request.prompt, tuple):
        return list(request.prompt)
    # This wire has no place for other files. In front of the prefix, each under its name, is
    # where models trained on whole repositories have met them.
    others = [
        f"{s.filename}\n{s.text}\n" if s.filename else f"{s.text}\n" for s in request.snippets
    ]
    return "".join([*others, request.prompt])


def _sampling(sampling: Sampling) -> dict[str, Any]:
    said = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
        "typical_p": sampling.typical_p,
        "repeat_penalty": sampling.repeat_penalty,
        "repeat_last_n": sampling.repeat_last_n,
        "dry_multiplier": sampling.dry_multiplier or None,
        "dry_base": sampling.dry_base,
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "ignore_eos": sampling.ignore_eos or None,
        "min_tokens": sampling.min_tokens or None,
    }
    return {name: value for name, value in said.items() if value is not None}
