"""Reads a session's frames: every field typed and bounded before anyone acts on it.

Both sides read with it. What it raises is one type, whatever garbage comes, and its text names the
field and never its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgpack
import orjson

from backends.engine.protocol import MAX_DRAFT
from backends.speculative.session import (
    COUPLINGS,
    ENDPOINTS,
    MAX_DRAFT_TEXT,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_POSITION,
    MAX_POSTED,
    MAX_PROMPT,
    MAX_STOPS,
    MAX_TEXT,
    MAX_WAYS,
    SOURCES,
    WAYS,
    WINDOW,
    Ack,
    Cancel,
    Close,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    MalformedMessage,
    Message,
    Open,
    Opened,
    Resume,
    Stale,
)
from gateway.core.chat import Sampling

Fields: TypeAlias = Mapping[str, Any]


def parse(data: bytes | str) -> Message:
    """The message in a frame. Raises MalformedMessage for anything else."""
    if len(data) > MAX_MESSAGE:
        raise MalformedMessage(f"A message may hold at most {MAX_MESSAGE} bytes.")
    try:
        fields = orjson.loads(data) if isinstance(data, str) else msgpack.unpackb(data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MalformedMessage("A frame is neither msgpack nor JSON.") from error
    return _message(fields)


def posted(data: str) -> tuple[str, list[Message]]:
    """What a POST to a session brings: its token, and messages. Raises MalformedMessage."""
    try:
        fields = orjson.loads(data)
    except ValueError as error:
        raise MalformedMessage("A body is not JSON.") from error
    if not isinstance(fields, dict):
        raise MalformedMessage("A body must be a map.")
    messages = fields.get("messages")
    if not isinstance(messages, list) or len(messages) > MAX_POSTED:
        raise MalformedMessage(f"'messages' must be a list of at most {MAX_POSTED}.")
    return _string(fields, "token", MAX_NAME), [_message(each) for each in messages]


def _message(fields: object) -> Message:
    if not isinstance(fields, dict):
        raise MalformedMessage("A message must be a map.")
    kind = fields.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise MalformedMessage("A message of unknown type came.")
    return reader(fields)


def _open(fields: Fields) -> Open:
    request = _map(fields, "request")
    prompt_ids = _ids(fields, "prompt_ids", MAX_PROMPT)
    if (request is None) == (not prompt_ids):
        raise MalformedMessage("'open' needs either 'request' or 'prompt_ids'.")
    return Open(
        v=_integer(fields, "v", 0, 1_000_000),
        session=_string(fields, "session", MAX_NAME),
        model=_string(fields, "model", MAX_NAME),
        model_fp=_fingerprint(fields),
        endpoint=_choice(fields, "endpoint", ENDPOINTS),
        request=request,
        prompt_ids=prompt_ids,
        sampling=_sampling(_map(fields, "sampling") or {}),
        coupling=_choice(fields, "coupling", COUPLINGS),
        max_width=_integer(fields, "max_width", 1, MAX_POSITION, MAX_DRAFT + 1),
        self_generate=_flag(fields, "self_generate", True),
        drafts=_ways(fields),
    )


def _opened(fields: Fields) -> Opened:
    widths = _map(fields, "tv_ms") or {}
    return Opened(
        session=_string(fields, "session", MAX_NAME),
        pos=_integer(fields, "pos", 0, MAX_POSITION, 0),
        prompt_ids=_ids(fields, "prompt_ids", MAX_PROMPT),
        model_fp=_fingerprint(fields),
        max_ahead=_integer(fields, "max_ahead", 0, MAX_POSITION, MAX_DRAFT),
        exactness=_string(fields, "exactness", MAX_NAME),
        width_class=_string(fields, "width_class", MAX_NAME),
        t1_ms=_number(fields, "t1_ms"),
        tv_ms={width: _number(widths, width) or 0.0 for width in list(widths)[:64]},
        token=_string(fields, "token", MAX_NAME),
        coupling=_choice(fields, "coupling", COUPLINGS),
        sampling=_sampling(_map(fields, "sampling") or {}),
        epsilon=_number(fields, "epsilon", 0),
        window=_integer(fields, "window", 1, MAX_POSITION, WINDOW),
        family=_string(fields, "family", MAX_NAME),
        drafts=_choice(fields, "drafts", WAYS),
    )


def _draft(fields: Fields) -> Draft:
    tokens = _ids(fields, "tokens", MAX_DRAFT)
    text = _draft_text(fields)
    if bool(tokens) == bool(text):
        raise MalformedMessage("'draft' needs either 'tokens' or 'text', and something in it.")
    return Draft(
        epoch=_integer(fields, "epoch", 0, MAX_POSITION),
        base_pos=_integer(fields, "base_pos", 0, MAX_POSITION),
        tokens=tokens,
        final=_flag(fields, "final", False),
        text=text,
    )


def _draft_text(fields: Fields) -> bytes:
    text = fields.get("text", b"")
    try:
        if isinstance(text, bytes):
            text.decode()
        elif isinstance(text, str):
            text = text.encode()
    except UnicodeError:
        raise MalformedMessage("'text' must be UTF-8.") from None
    if not isinstance(text, bytes) or len(text) > MAX_DRAFT_TEXT:
        raise MalformedMessage(f"'text' must be text of at most {MAX_DRAFT_TEXT} bytes.")
    return text


def _ways(fields: Fields) -> tuple[str, ...]:
    ways = fields.get("drafts", WAYS[:1])
    if not isinstance(ways, list | tuple) or len(ways) > MAX_WAYS:
        raise MalformedMessage(f"'drafts' must be a list of at most {MAX_WAYS} names.")
    if not all(isinstance(way, str) and len(way) <= MAX_NAME for way in ways):
        raise MalformedMessage("'drafts' must hold names.")
    return tuple(ways)


def _commit(fields: Fields) -> Commit:
    finish = fields.get("finish")
    text = fields.get("text_bytes", b"")
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    if not isinstance(text, bytes):
        raise MalformedMessage("'text_bytes' must be bytes.")
    used = _integer(fields, "n_draft_used", 0, MAX_DRAFT, 0)
    return Commit(
        epoch=_integer(fields, "epoch", 0, MAX_POSITION),
        base_pos=_integer(fields, "base_pos", 0, MAX_POSITION),
        tokens=_ids(fields, "tokens", MAX_PROMPT),
        text_bytes=text,
        n_draft_used=used,
        n_accepted=_integer(fields, "n_accepted", 0, used, 0),
        source=_choice(fields, "source", SOURCES),
        finish=None if finish is None else _string(fields, "finish", MAX_NAME),
        width=_integer(fields, "width", 0, MAX_POSITION, 1),
        margin_min=_number(fields, "margin_min"),
        t_queue_us=_optional(fields, "t_queue_us"),
        t_verify_us=_optional(fields, "t_verify_us"),
        prompt_tokens=_integer(fields, "prompt_tokens", 0, MAX_POSITION, 0),
        cached_tokens=_integer(fields, "cached_tokens", 0, MAX_POSITION, 0),
        completion_tokens=_integer(fields, "completion_tokens", 0, MAX_POSITION, 0),
    )


def _ack(fields: Fields) -> Ack:
    return Ack(pos=_integer(fields, "pos", 0, MAX_POSITION))


def _resume(fields: Fields) -> Resume:
    return Resume(
        v=_integer(fields, "v", 0, 1_000_000),
        session=_string(fields, "session", MAX_NAME),
        token=_string(fields, "token", MAX_NAME),
        have_pos=_integer(fields, "have_pos", 0, MAX_POSITION),
    )


def _stale(fields: Fields) -> Stale:
    return Stale(
        epoch=_integer(fields, "epoch", 0, MAX_POSITION),
        base_pos=_integer(fields, "base_pos", 0, MAX_POSITION),
    )


def _failure(fields: Fields) -> Failure:
    fallback = fields.get("fallback")
    return Failure(
        code=_string(fields, "code", MAX_NAME),
        message=_string(fields, "message", MAX_TEXT),
        retry=_flag(fields, "retry", False),
        fallback=None if fallback is None else _string(fields, "fallback", MAX_NAME),
    )


_READERS: Mapping[str, Callable[[Fields], Message]] = {
    Open.type: _open,
    Opened.type: _opened,
    Draft.type: _draft,
    Commit.type: _commit,
    Stale.type: _stale,
    Ack.type: _ack,
    Resume.type: _resume,
    Cancel.type: lambda fields: Cancel(),
    Close.type: lambda fields: Close(),
    Failure.type: _failure,
}


def _fingerprint(fields: Fields) -> Fingerprint | None:
    found = _map(fields, "model_fp")
    if found is None:
        return None
    return Fingerprint(
        tokenizer_sha=_string(found, "tokenizer_sha", MAX_NAME),
        vocab_n=_integer(found, "vocab_n", 1, MAX_POSITION),
        template_sha=_string(found, "template_sha", MAX_NAME),
        bos=_integer(found, "bos", -1, MAX_POSITION, -1),
        eos=_integer(found, "eos", -1, MAX_POSITION, -1),
    )


def _sampling(fields: Fields) -> Sampling:
    stops = fields.get("stop") or ()
    if not isinstance(stops, list | tuple) or len(stops) > MAX_STOPS:
        raise MalformedMessage(f"'stop' must be a list of at most {MAX_STOPS} strings.")
    if not all(isinstance(stop, str) and 0 < len(stop) <= MAX_TEXT for stop in stops):
        raise MalformedMessage("'stop' must hold strings that are not empty.")
    return Sampling(
        max_tokens=_optional(fields, "max_tokens", 1),
        temperature=_number(fields, "temperature", 0, 2),
        top_p=_number(fields, "top_p", 0, 1),
        top_k=_optional(fields, "top_k", -1),
        min_p=_number(fields, "min_p", 0, 1),
        seed=_optional(fields, "seed", -(2**63), 2**63 - 1),
        stop=tuple(stops),
        frequency_penalty=_number(fields, "frequency_penalty", -2, 2) or 0.0,
        presence_penalty=_number(fields, "presence_penalty", -2, 2) or 0.0,
    )


def _map(fields: Fields, name: str) -> Mapping[str, Any] | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise MalformedMessage(f"{name!r} must be a map.")
    return value


def _integer(fields: Fields, name: str, low: int, high: int, absent: int | None = None) -> int:
    value = fields.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise MalformedMessage(f"{name!r} must be an integer from {low} to {high}.")
    return value


def _optional(fields: Fields, name: str, low: int = 0, high: int = MAX_POSITION) -> int | None:
    return None if fields.get(name) is None else _integer(fields, name, low, high)


def _number(
    fields: Fields, name: str, low: float = float("-inf"), high: float = float("inf")
) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    # The comparison refuses NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise MalformedMessage(f"{name!r} must be a number from {low:g} to {high:g}.")
    return float(value)


def _string(fields: Fields, name: str, limit: int) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > limit:
        raise MalformedMessage(f"{name!r} must be a string of at most {limit} characters.")
    return value


def _choice(fields: Fields, name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name, known[0])
    if value not in known:
        raise MalformedMessage(f"{name!r} must be one of {', '.join(known)}.")
    return str(value)


def _flag(fields: Fields, name: str, absent: bool) -> bool:
    value = fields.get(name, absent)
    if not isinstance(value, bool):
        raise MalformedMessage(f"{name!r} must be true or false.")
    return value


def _ids(fields: Fields, name: str, limit: int) -> tuple[int, ...]:
    value = fields.get(name) or ()
    if not isinstance(value, list | tuple) or len(value) > limit:
        raise MalformedMessage(f"{name!r} must be a list of at most {limit} token ids.")
    for token in value:
        if type(token) is not int or not 0 <= token <= MAX_POSITION:
            raise MalformedMessage(f"{name!r} must hold token ids.")
    return tuple(value)
