"""POST /v1/completions, the legacy endpoint that editors complete code with."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature, TokenLogprob
from gateway.core.errors import InvalidRequest, TandemError
from gateway.core.events import Event, Finish, TextDelta, UsageReport
from gateway.dialects.base import Answering
from gateway.dialects.openai_stream import NULL, OpenAIStream
from gateway.wire import fields
from gateway.wire import openai_shapes as shapes

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this endpoint."""

READ = frozenset(
    "model prompt suffix stream stream_options temperature top_p top_k min_p seed stop n best_of "
    "max_tokens frequency_penalty presence_penalty logit_bias logprobs echo grammar typical_p "
    "repeat_penalty repetition_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length "
    "dry_penalty_last_n ignore_eos min_tokens".split()
)


class OpenAICompletions:
    """Text completions, streamed or whole; with a `suffix`, fill-in-the-middle."""

    name = "openai_completions"
    media_type = "application/json"
    stream_media_type = "text/event-stream; charset=utf-8"

    def decode(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        fields.refuse_denied(body)
        model = fields.model(body)
        limit = fields.integer(body, "max_tokens", 0)
        sampling, needs = shapes.sampling(
            body, max_tokens=DEFAULT_MAX_TOKENS if limit is None else limit
        )
        stream, include_usage = shapes.stream_options(body)
        prompt = _prompt(body, needs)
        suffix = fields.text(body, "suffix")
        if suffix is not None:
            needs.add(Feature.FIM)
        if fields.text(body, "grammar"):
            needs.add(Feature.GRAMMAR)
        sampling = replace(sampling, logprobs=fields.integer(body, "logprobs", 0, 20))
        if sampling.logprobs is not None:
            needs.add(Feature.LOGPROBS)
        if fields.boolean(body, "echo"):
            needs.add(Feature.ECHO)
        if (fields.integer(body, "best_of", 1, 128) or 1) > 1:
            needs.add(Feature.N)
        return ChatRequest(
            endpoint=Endpoint.COMPLETION,
            dialect=self.name,
            model=model,
            prompt=prompt,
            suffix=suffix,
            sampling=sampling,
            stream=stream,
            include_usage=include_usage,
            features=frozenset(needs | {Feature.COMPLETION}),
            extra={key: value for key, value in body.items() if key not in READ},
            body=body,
        )

    def encode(self, completion: Completion, answering: Answering, request: ChatRequest) -> bytes:
        return orjson.dumps(
            {
                "id": answering.id,
                "object": "text_completion",
                "created": answering.created,
                "model": answering.model,
                "choices": [
                    {
                        "index": choice.index,
                        "text": choice.text,
                        "logprobs": Logprobs().json(choice.logprobs),
                        "finish_reason": choice.finish_reason,
                    }
                    for choice in completion.choices
                ],
                # Zed reads these three numbers and fails without them (clients.md trap 4).
                "usage": shapes.usage_json(completion.usage) if completion.usage else None,
            }
        )

    def encoder(self, answering: Answering, request: ChatRequest) -> CompletionStream:
        return CompletionStream(answering, request.include_usage)

    def error(self, error: TandemError) -> bytes:
        return shapes.error_body(error)


class CompletionStream(OpenAIStream):
    """One stream of text_completion events. `text` is always a string: Tabby panics otherwise."""

    OBJECT = "text_completion"
    BEFORE, AFTER = b'"text":', b""

    def __init__(self, answering: Answering, include_usage: bool) -> None:
        super().__init__(answering, include_usage)
        self._logprobs: dict[int, Logprobs] = {}

    def said(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                logprobs = NULL
                if event.logprobs:
                    one = self._logprobs.setdefault(event.choice, Logprobs())
                    logprobs = orjson.dumps(one.json(event.logprobs))
                return self.chunk(event.choice, orjson.dumps(event.text), NULL, logprobs)
            case Finish():
                return self.chunk(event.choice, b'""', orjson.dumps(event.reason))
            case UsageReport():
                return self.usage(event)
            case _:
                return b""


class Logprobs:
    """One choice's tokens in this endpoint's columns; remembers where in the text it is."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def json(self, entries: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        """The next tokens, None if there are none. `text_offset` counts characters."""
        if not entries:
            return None
        offsets = []
        for entry in entries:
            offsets.append(self._at)
            self._at += len(self._utf8.decode(entry.data))
        tops = [
            {other.text: other.logprob for other in (*entry.top[::-1], entry)}
            if entry.top
            else None
            for entry in entries
        ]
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }


def _prompt(body: Mapping[str, Any], needs: set[Feature]) -> str | tuple[int, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise fields.wrong_type("prompt", "a string, or a non-empty list", prompt)
    if all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        needs.add(Feature.TOKEN_PROMPT)
        return tuple(prompt)
    needs.add(Feature.PROMPT_LIST)
    if all(isinstance(item, str) for item in prompt):
        return "".join(prompt)
    if all(isinstance(item, list) and all(isinstance(i, int) for i in item) for item in prompt):
        needs.add(Feature.TOKEN_PROMPT)
        return tuple(token for item in prompt for token in item)
    raise InvalidRequest(
        "'prompt' must hold strings or lists of token ids, not a mixture.",
        param="prompt",
        code="invalid_type",
    )
