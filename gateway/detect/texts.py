"""What a request will show to a model, piece by piece: every string of it, and what is no text.

The request's own JSON is walked, not its known fields: what we do not understand travels too.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

from gateway.core.chat import ChatRequest, Feature

WORDLESS = frozenset(
    "model stream stream_options temperature top_p top_k min_p typical_p seed n max_tokens "
    "max_completion_tokens frequency_penalty presence_penalty repeat_penalty repetition_penalty "
    "repeat_last_n logit_bias logprobs top_logprobs echo best_of dimensions encoding_format "
    "n_predict cache_prompt id_slot service_tier parallel_tool_calls store".split()
)
"""Top-level fields that say how, not what. A list of numbers there is no prompt of token ids."""

OPAQUE_PARTS = frozenset(
    "image_url image input_image input_audio audio file input_file document video video_url".split()
)
OPAQUE_FEATURES = frozenset(
    {Feature.IMAGES, Feature.AUDIO, Feature.TOKEN_PROMPT, Feature.TOKEN_INPUT}
)
PLAIN_KEYS = frozenset(
    "role content type text name function id tool_calls tool_call_id arguments image_url url "
    "detail parameters properties description required format filename prompt suffix".split()
)
LONG_NUMBER = 10**7
"""A JSON number of so many digits may be a card's or a telephone's."""


def units(request: ChatRequest) -> list[Any]:
    """The request in pieces that come again in the next turn: messages, tools, texts, fields."""
    found: list[Any] = []
    for key, value in request.body.items():
        if key in WORDLESS:
            continue
        if isinstance(value, list) and value and not isinstance(value[0], int | float):
            found += value
        elif (isinstance(value, str | dict | list) and value) or _is_long(value):
            found.append(value)
        if key not in _FIELDS:
            found.append(key)
    if not request.body:
        found += [message.raw or message.text for message in request.messages]
        found += [request.prompt, request.suffix or "", request.continues, *request.inputs]
        found += [text for each in request.snippets for text in (each.text, each.filename)]
    return found


_FIELDS = frozenset(
    "messages prompt suffix input input_extra input_prefix input_suffix tools tool_choice "
    "functions response_format stop user metadata prediction modalities reasoning_effort".split()
)


def is_opaque(request: ChatRequest) -> bool:
    """Whether its decoder saw something that is no text: a picture, a sound, token ids."""
    return bool(request.features & OPAQUE_FEATURES)


def text_of(unit: Any) -> tuple[str, bool]:
    """All strings of a unit, a line each, and whether it also holds what is no text."""
    found: list[str] = []
    opaque = False
    waiting = [unit]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if value[:5].lower() == "data:":
                told = _data_url(value)
                opaque = opaque or told is None
                value = told or ""
            found.append(value)
        elif isinstance(value, dict):
            # A schema's type may be a list, and a property of that name a schema.
            kind = value.get("type")
            opaque = opaque or (isinstance(kind, str) and kind in OPAQUE_PARTS)
            for key, inner in value.items():
                if key not in PLAIN_KEYS:
                    found.append(key)
                if key == "enum" and isinstance(inner, list):
                    waiting += inner  # a schema's choices: numbers are just that
                else:
                    waiting.append(inner)
        elif isinstance(value, list | tuple):
            # Numbers where a prompt could be are token ids, which only a tokenizer can read.
            opaque = opaque or any(type(each) is int for each in value[:1])
            waiting += value
        elif _is_long(value):
            found.append(str(value))
    return "\n".join(found), opaque


def _is_long(value: object) -> bool:
    return type(value) is int and abs(value) >= LONG_NUMBER


def _data_url(url: str) -> str | None:
    """The text in a `data:` URL (RFC 2397), or None if it holds anything else."""
    head, comma, data = url[5:].partition(",")
    kind, *parameters = head.lower().split(";")
    if not comma or not (kind in ("", "application/json") or kind.startswith("text/")):
        return None
    try:
        raw = unquote_to_bytes(data)
        if "base64" in [each.strip() for each in parameters]:
            raw = base64.b64decode(raw, validate=False)
    except (binascii.Error, ValueError):
        return None
    return raw.decode("utf-8", "replace")
