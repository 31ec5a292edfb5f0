"""Mistral: `[TOOL_CALLS]`, then a JSON list; since 2025 the name and `[ARGS]` before the object."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from backends.engine.tools.base import Family, Message

_ALPHABET = string.ascii_letters + string.digits
_ID = re.compile(r"[A-Za-z0-9]{9}")


class _Mistral(Family):
    """Its templates refuse a conversation whose call ids are not nine letters and digits."""

    def call_id(self) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))

    def messages(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Message]:
        return [_renamed(message) for message in messages]


class _Args(_Mistral):
    def fits(self, template: str) -> bool:
        return "[TOOL_CALLS]" in template and "[ARGS]" in template


def _renamed(message: Message) -> Message:
    """Ids that came from another upstream (a conversation may change models) made to fit."""
    message = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = _nine(message["tool_call_id"])
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "id": _nine(str(call.get("id", "")))} for call in message["tool_calls"]
        ]
    return message


def _nine(id: str) -> str:
    return (
        id if _ID.fullmatch(id) else hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]
    )


MISTRAL = _Mistral(
    name="mistral",
    marker="[TOOL_CALLS]",
    opening="[TOOL_CALLS][",
    before='{"name": "',
    middle='", "arguments": ',
    after="}",
    between=", ",
    closing="]",
)
MISTRAL_ARGS = _Args(
    name="mistral-args",
    marker="[TOOL_CALLS]",
    before="[TOOL_CALLS]",
    middle="[ARGS]",
    after="",
)
