"""An upstream's error, in any of the shapes seen in the wild: as a body, or inside an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.wire.upstream_json import Malformed, parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """An upstream's error, whatever shape it came in. `status` is set if the body names one.

    Its texts are as long as the upstream made them, and may repeat what it was sent.
    """

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None
    status: int | None = None


class Reported(Exception):
    """An error that came where an answer should have been: under 200, or inside a stream."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


def error_of(document: Mapping[str, Any]) -> ErrorBody | None:
    """The error in a body, in any of the shapes seen in the wild, or None.

    OpenAI's `{"error": {…}}`, Ollama's `{"error": "text"}`, vLLM's older `{"object": "error", …}`,
    FastAPI's `{"detail": …}`. A bare `message` counts only without `choices`.
    """
    error = document.get("error")
    if isinstance(error, dict):
        return _error_body(error)
    if isinstance(error, str) and error:
        return ErrorBody(message=_sentence(error))
    if document.get("object") == "error" or "choices" not in document:
        if document.get("message") is not None:
            return _error_body(document)
        if document.get("detail") is not None:
            return ErrorBody(message=_sentence(document["detail"]))
    return None


def read_error(data: bytes) -> ErrorBody:
    """The error of an event that says of itself that it is one, whatever its data."""
    try:
        body = parse_object(data)
    except Malformed:
        return ErrorBody(message="no message")
    return error_of(body) or _error_body(body)


def _error_body(error: Mapping[str, Any]) -> ErrorBody:
    code = error.get("code")
    status = int(code) if isinstance(code, int | str) and _is_status(code) else None
    return ErrorBody(
        message=_sentence(error.get("message") or "no message"),
        type=_word(error.get("type")),
        param=_word(error.get("param")),
        code=None if status is not None else _word(code),
        status=status,
    )


def _is_status(code: int | str) -> bool:
    text = str(code)
    return len(text) == 3 and text.isascii() and text.isdigit() and "400" <= text <= "599"


def _sentence(message: Any) -> str:
    return message if isinstance(message, str) else orjson.dumps(message).decode()


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
