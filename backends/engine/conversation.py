"""Messages as chat templates expect them, from messages as OpenAI's clients send them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_NEEDLE = {"needle": "hay"}

PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call12345",
                "type": "function",
                "function": {"name": "f", "arguments": _NEEDLE},
            }
        ],
    },
)
"""Rendered once, to learn how a template takes arguments."""


def takes_objects(rendered: str) -> bool:
    """Whether a template wrote the probe's arguments as JSON: else it wants them as a string."""
    return '{"needle": "hay"}' in rendered or '{"needle":"hay"}' in rendered


def turn(role: str, text: str, raw: Mapping[str, Any]) -> Message:
    """What of a message a template may read. `content` is always a string."""
    message: Message = {"role": role, "content": text}
    for key in ("name", "tool_call_id"):
        if isinstance(raw.get(key), str):
            message[key] = raw[key]
    if raw.get("tool_calls"):
        message["tool_calls"] = raw["tool_calls"]
    return message


def malformed(messages: Sequence[Message]) -> str | None:
    """What is wrong with the tool calls in a conversation; None if nothing is."""
    for at, message in enumerate(messages):
        calls = message.get("tool_calls", [])
        if not isinstance(calls, list):
            return f"messages[{at}].tool_calls must be a list"
        for i, call in enumerate(calls):
            function = call.get("function") if isinstance(call, Mapping) else None
            where = f"messages[{at}].tool_calls[{i}].function"
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                return f"{where} must be an object with a name"
            if not isinstance(function.get("arguments", ""), str | Mapping):
                return f"{where}.arguments must be a string"
    return None


def with_arguments(messages: Sequence[Message], *, objects: bool) -> list[Message]:
    """Every call's arguments as an object, or as a string.

    A string that is no JSON object stays a string either way: it is what a model once said.
    """
    turned = []
    for message in messages:
        if message.get("tool_calls"):
            calls = [_call(call, objects=objects) for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        turned.append(message)
    return turned


def _call(call: Mapping[str, Any], *, objects: bool) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments", "{}")
    if objects and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except ValueError:
            parsed = arguments
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    elif not objects and not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**call, "type": "function", "function": function}
