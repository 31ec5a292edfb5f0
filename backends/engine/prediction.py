"""The client's `prediction`: what it expects the answer to be, as OpenAI's field says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import InvalidRequest


def predicted(body: Mapping[str, Any]) -> str:
    """The text, "" without one. Raises InvalidRequest."""
    field = body.get("prediction")
    if field is None:
        return ""
    if not isinstance(field, dict) or field.get("type") != "content":
        raise InvalidRequest(
            "'prediction' must be an object of type 'content'.", param="prediction"
        )
    content = field.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(_is_text(part) for part in content):
        raise InvalidRequest(
            "'prediction.content' must be a string or an array of text parts.",
            param="prediction.content",
        )
    return "".join(part["text"] for part in content)


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
