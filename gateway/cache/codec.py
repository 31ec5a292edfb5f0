"""An entry as bytes that may leave the process: JSON, compressed, authenticated.

    value   = mac (32 bytes) | form (1 byte) | payload
    payload = JSON of the Entry, zlib-compressed when form is 1

The MAC covers the key too. So whoever can write to a shared Redis can neither put words into an
answer nor move one under another key, and a reply that a broken connection delivered to the wrong
request is a miss, never somebody else's answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from typing import Any

import orjson

from gateway.cache.base import Entry
from gateway.core.chat import Choice, Completion, ToolCall, Usage

COMPRESS_ABOVE = 1024
_MAC_BYTES = 32
_PLAIN, _ZLIB = b"\x00", b"\x01"


class Corrupt(ValueError):
    """A value that nobody with the secret wrote under this key, or that this version cannot read.

    To a cache it is a miss.
    """


def encode(entry: Entry) -> bytes:
    """The entry as JSON. Raises Corrupt for text that has no UTF-8 form."""
    try:
        return orjson.dumps(entry, default=_text)
    except orjson.JSONEncodeError as error:
        raise Corrupt(str(error)) from None


def decode(payload: bytes) -> Entry:
    """The entry that `encode` wrote. Raises Corrupt."""
    try:
        return _entry(orjson.loads(payload))
    except (
        orjson.JSONDecodeError,
        binascii.Error,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise Corrupt(f"not an entry: {type(error).__name__}") from None


def seal(payload: bytes, *, key: str, secret: bytes) -> bytes:
    """The value to store under `key`."""
    form = _PLAIN
    if len(payload) > COMPRESS_ABOVE:
        form, payload = _ZLIB, zlib.compress(payload, 1)
    return _mac(key, secret, form + payload) + form + payload


def unseal(value: bytes, *, key: str, secret: bytes, limit: int) -> bytes:
    """The payload sealed in `value`, at most `limit` bytes of it. Raises Corrupt."""
    mac, rest = value[:_MAC_BYTES], value[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, secret, rest)):
        raise Corrupt("the value is not authentic")
    form, payload = rest[:1], rest[1:]
    if form == _PLAIN:
        return payload
    inflater = zlib.decompressobj()
    payload = inflater.decompress(payload, limit)
    if not inflater.eof:
        raise Corrupt("the value is larger than an entry may be")
    return payload


def _mac(key: str, secret: bytes, rest: bytes) -> bytes:
    name = key.encode()
    return hmac.digest(secret, len(name).to_bytes(8, "big") + name + rest, hashlib.sha256)


def _text(value: object) -> str:
    """Vectors are bytes, which JSON has not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _entry(raw: Any) -> Entry:
    completion = raw["completion"]
    usage = completion["usage"]
    return Entry(
        completion=Completion(
            choices=tuple(_choice(choice) for choice in completion["choices"]),
            usage=None if usage is None else Usage(**usage),
            vectors=tuple(base64.b64decode(v, validate=True) for v in completion["vectors"]),
        ),
        upstream=raw["upstream"],
        model=raw["model"],
        stored_at=raw["stored_at"],
        cost_usd=raw["cost_usd"],
    )


def _choice(raw: dict[str, Any]) -> Choice:
    calls = tuple(ToolCall(**call) for call in raw["tool_calls"])
    # Answers with log-probabilities are never kept (key.py).
    return Choice(**{**raw, "tool_calls": calls, "logprobs": ()})
