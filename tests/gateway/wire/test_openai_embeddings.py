"""OpenAI's embedding replies, read and written."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from gateway.core.chat import Completion, Usage
from gateway.wire import vectors
from gateway.wire.openai_embeddings import read_embeddings, write_embeddings
from gateway.wire.openai_errors import Reported
from gateway.wire.upstream_json import Malformed

ONE, TWO = vectors.pack([1.0, 0.0]), vectors.pack([0.5, -0.25])


def reply(*entries: Any, **more: Any) -> bytes:
    data = [
        {"object": "embedding", "index": i, "embedding": entry}
        if not isinstance(entry, dict)
        else entry
        for i, entry in enumerate(entries)
    ]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return orjson.dumps({"object": "list", "data": data, "model": "m", "usage": usage, **more})


@pytest.mark.parametrize("base64", [False, True])
def test_what_is_written_can_be_read(base64: bool) -> None:
    """A reply has OpenAI's members, and reads back as the same vectors in the same format."""
    completion = Completion(vectors=(ONE, TWO), usage=Usage(prompt_tokens=7))
    raw = write_embeddings(completion, "m", base64=base64)
    told = json.loads(raw)
    assert (told["object"], told["model"]) == ("list", "m")
    assert told["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [(e["object"], e["index"]) for e in told["data"]] == [("embedding", 0), ("embedding", 1)]
    read, formats = read_embeddings(raw, 2)
    assert read == completion
    assert formats == {"base64" if base64 else "float"}


def test_order_is_by_index() -> None:
    """An upstream that answers in another order is put right."""
    raw = reply({"index": 1, "embedding": [0.5, -0.25]}, {"index": 0, "embedding": [1, 0]})
    assert read_embeddings(raw, 2)[0].vectors == (ONE, TWO)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"{}",
        reply([1.0, 0.0]),
        reply([1.0], [1.0, 2.0]),
        reply([1.0], []),
        reply([1.0], ["x"]),
        reply([1.0], [1e300]),
        reply([1.0], "AAA="),
        reply([1.0], None),
        reply([1.0], {"index": 0, "embedding": [1.0]}),
        reply([1.0], {"index": 2, "embedding": [1.0]}),
        reply([1.0], {"index": True, "embedding": [1.0]}),
    ],
)
def test_what_is_no_reply(raw: bytes) -> None:
    """Too few vectors, of several lengths, twice, or none at all: none of it goes any further."""
    with pytest.raises(Malformed):
        read_embeddings(raw, 2)


def test_an_error_under_200() -> None:
    """An error where vectors should have been is told as such."""
    with pytest.raises(Reported):
        read_embeddings(b'{"error": {"message": "no", "code": 429}}', 1)
