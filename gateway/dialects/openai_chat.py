"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.core.chat import (
    ChatRequest,
    Choice,
    Completion,
    Endpoint,
    Feature,
    Message,
    TokenLogprob,
)
from gateway.core.errors import InvalidRequest, TandemError
from gateway.core.events import (
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from gateway.dialects.base import Answering
from gateway.dialects.openai_stream import NULL, OpenAIStream
from gateway.wire import fields
from gateway.wire import openai_shapes as shapes

READ = frozenset(
    "model messages stream stream_options temperature top_p top_k min_p seed stop n max_tokens "
    "max_completion_tokens frequency_penalty presence_penalty logit_bias logprobs top_logprobs "
    "tools tool_choice parallel_tool_calls response_format grammar modalities typical_p "
    "repeat_penalty repetition_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length "
    "dry_penalty_last_n ignore_eos min_tokens".split()
)

SPOKEN = frozenset({"system", "developer", "user"})
"""Roles whose messages are nothing without content; the others may have none."""

JUST_CHAT = frozenset({Feature.CHAT})


class OpenAIChat:
    """Chat completions, streamed or whole."""

    name = "openai_chat"
    media_type = "application/json"
    stream_media_type = "text/event-stream; charset=utf-8"

    def decode(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        fields.refuse_denied(body)
        model = fields.model(body)
        limit = fields.integer(body, "max_completion_tokens", 1)
        if limit is None:
            limit = fields.integer(body, "max_tokens", 1)
        sampling, needs = shapes.sampling(body, max_tokens=limit)
        if not body.keys() <= shapes.PLAIN:
            needs |= _abilities(body)
            if (logprobs := _logprobs(body)) is not None:
                sampling = replace(sampling, logprobs=logprobs)
        stream, include_usage = shapes.stream_options(body)
        messages = tuple(_messages(body, needs))
        return ChatRequest(
            endpoint=Endpoint.CHAT,
            dialect=self.name,
            model=model,
            messages=messages,
            sampling=sampling,
            stream=stream,
            include_usage=include_usage,
            features=frozenset((*needs, Feature.CHAT)) if needs else JUST_CHAT,
            extra={} if body.keys() <= READ else {k: v for k, v in body.items() if k not in READ},
            body=body,
        )

    def encode(self, completion: Completion, answering: Answering, request: ChatRequest) -> bytes:
        return orjson.dumps(
            {
                "id": answering.id,
                "object": "chat.completion",
                "created": answering.created,
                "model": answering.model,
                "choices": [_choice(choice) for choice in completion.choices],
                "usage": shapes.usage_json(completion.usage) if completion.usage else None,
            }
        )

    def encoder(self, answering: Answering, request: ChatRequest) -> ChatStream:
        return ChatStream(answering, request.include_usage)

    def error(self, error: TandemError) -> bytes:
        return shapes.error_body(error)


class ChatStream(OpenAIStream):
    """One stream of chat.completion.chunk events; a choice's first one names its role."""

    OBJECT = "chat.completion.chunk"
    BEFORE, AFTER = b'"delta":{', b"}"

    def __init__(self, answering: Answering, include_usage: bool) -> None:
        super().__init__(answering, include_usage)
        self._begun: set[int] = set()

    def said(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                logprobs = orjson.dumps(_logprobs_json(event.logprobs))
                content = b'"content":' + orjson.dumps(event.text)
                return self._delta(event.choice, content, NULL, logprobs)
            case ReasoningDelta():
                return self._delta(event.choice, b'"reasoning_content":' + orjson.dumps(event.text))
            case RefusalDelta():
                return self._delta(event.choice, b'"refusal":' + orjson.dumps(event.text))
            case ToolCallDelta():
                call = orjson.dumps([_call_delta(event)])
                return self._delta(event.choice, b'"tool_calls":' + call)
            case Finish():
                return self._delta(event.choice, b"", orjson.dumps(event.reason))
            case UsageReport():
                return self.usage(event)
            case _:
                return b""

    def _delta(
        self, choice: int, delta: bytes, finish: bytes = NULL, logprobs: bytes = NULL
    ) -> bytes:
        if choice in self._begun:
            return self.chunk(choice, delta, finish, logprobs)
        self._begun.add(choice)
        first = self.chunk(choice, b'"role":"assistant","content":""')
        return first + self.chunk(choice, delta, finish, logprobs)


def _messages(body: Mapping[str, Any], needs: set[Feature]) -> list[Message]:
    raw = fields.objects(body, "messages")
    if not raw:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    return [_message(item, f"messages[{at}]", needs) for at, item in enumerate(raw)]


def _message(raw: Mapping[str, Any], at: str, needs: set[Feature]) -> Message:
    role = raw.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequest(f"'{at}.role' must be a string.", param=f"{at}.role")
    content = raw.get("content")
    if content is None and role in SPOKEN:
        # Often a misspelt key; a model would make something up about nothing.
        raise fields.wrong_type(f"{at}.content", "a string or a list of parts", content)
    if content is None or isinstance(content, str):
        text = content or ""
    elif isinstance(content, list):
        text = "".join(_part(part, f"{at}.content[{i}]", needs) for i, part in enumerate(content))
    else:
        raise fields.wrong_type(f"{at}.content", "a string or a list of parts", content)
    return Message(role=role, text=text, raw=raw)


def _part(part: Any, at: str, needs: set[Feature]) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"'{at}' must be an object with a type.", param=at)
    match part["type"]:
        case "text":
            if not isinstance(part.get("text"), str):
                raise InvalidRequest(f"'{at}.text' must be a string.", param=f"{at}.text")
            return str(part["text"])
        case "image_url":
            needs.add(Feature.IMAGES)
        case "input_audio":
            needs.add(Feature.AUDIO)
        case "refusal":
            return str(part.get("refusal", ""))
        case _:
            # A part we do not know could be anything; only an upstream that reads images and
            # files is likely to know it.
            needs.add(Feature.IMAGES)
    return ""


def _abilities(body: Mapping[str, Any]) -> set[Feature]:
    needs: set[Feature] = set()
    if fields.objects(body, "tools") or fields.objects(body, "functions"):
        needs.add(Feature.TOOLS)
    if body.get("tool_choice") not in (None, "none", "auto"):
        needs.add(Feature.TOOLS)  # without any, it is for the upstream to refuse
    wanted = fields.mapping(body, "response_format").get("type", "text")
    if wanted != "text":
        needs.add(Feature.JSON_MODE)
    if fields.text(body, "grammar"):
        needs.add(Feature.GRAMMAR)
    if fields.mapping(body, "prediction"):
        needs.add(Feature.PREDICTION)
    fields.boolean(body, "parallel_tool_calls")
    if body.get("modalities") not in (None, ["text"]):
        needs.add(Feature.SPEECH)
    if _logprobs(body) is not None:
        needs.add(Feature.LOGPROBS)
    return needs


def _logprobs(body: Mapping[str, Any]) -> int | None:
    """How many of the likeliest beside each token; None if none are asked for at all."""
    if "logprobs" not in body and "top_logprobs" not in body:
        return None
    top = fields.integer(body, "top_logprobs", 0, 20) or 0
    return top if fields.boolean(body, "logprobs") or top else None


def _logprobs_json(entries: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
    if not entries:
        return None
    return {"content": [shapes.logprob_json(entry) for entry in entries], "refusal": None}


def _choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text if choice.text or not choice.tool_calls else None,
        "refusal": choice.refusal or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in choice.tool_calls
        ]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": _logprobs_json(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": event.arguments}
    call: dict[str, Any] = {"index": event.index, "function": function}
    # SDKs concatenate what they get, so id, type and name must come once (clients.md section 3).
    if event.id:
        call.update(id=event.id, type="function")
    if event.name:
        function["name"] = event.name
    return call
