"""OpenAI's embeddings on the wire: a reply read into vectors, vectors written as a reply. Pure."""

from __future__ import annotations

import math
from typing import Any

import orjson

from gateway.core.chat import Completion
from gateway.wire import vectors
from gateway.wire.openai_errors import Reported, error_of
from gateway.wire.openai_usage import usage_of
from gateway.wire.upstream_json import Malformed, parse_object


def read_embeddings(data: bytes, count: int) -> tuple[Completion, frozenset[str]]:
    """A reply to `count` inputs, in their order, and the formats its vectors came in.

    Raises Malformed, and Reported if it is an error.
    """
    document = parse_object(data)
    entries = document.get("data")
    error = None if isinstance(entries, list) else error_of(document)
    if error is not None:
        raise Reported(error)
    if not isinstance(entries, list) or len(entries) != count:
        raise Malformed(f"not {count} embeddings in `data`")
    read: list[bytes | None] = [None] * count
    formats = set()
    for position, entry in enumerate(entries):
        index, vector, form = _entry(entry, position)
        if not 0 <= index < count or read[index] is not None:
            raise Malformed("an embedding's `index` is out of range or there twice")
        read[index] = vector
        formats.add(form)
    whole = tuple(vector for vector in read if vector is not None)
    if len(set(map(len, whole))) != 1:
        raise Malformed("embeddings of several lengths")
    return Completion(usage=usage_of(document), vectors=whole), frozenset(formats)


def _entry(entry: Any, position: int) -> tuple[int, bytes, str]:
    if not isinstance(entry, dict):
        raise Malformed("an embedding is not an object")
    index, given = entry.get("index", position), entry.get("embedding")
    if isinstance(index, bool) or not isinstance(index, int):
        raise Malformed("an embedding's `index` is not an integer")
    try:
        if isinstance(given, str):
            return index, vectors.from_base64(given), "base64"
        if isinstance(given, list) and given:
            vector = vectors.pack(given)
            if all(map(math.isfinite, vectors.unpack(vector))):
                return index, vector, "float"
    except (ValueError, TypeError, OverflowError):
        pass
    raise Malformed("an `embedding` is not a vector")


def write_embeddings(completion: Completion, model: str, *, base64: bool) -> bytes:
    """A reply with the vectors in their order. Embeddings have no completion tokens to show."""
    form = vectors.to_base64 if base64 else vectors.unpack
    tokens = completion.usage.prompt_tokens if completion.usage else 0
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": form(vector)}
                for index, vector in enumerate(completion.vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
