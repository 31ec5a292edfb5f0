from __future__ import annotations

import json
from typing import Any

import pytest

from backends.discovery import Served, served
from gateway.core.chat import Feature
from gateway.wire.upstream_json import Malformed


def find(model: str, *entries: Any) -> Served | None:
    return served(json.dumps({"object": "list", "data": entries}).encode(), model)


def test_vllm() -> None:
    """vLLM's entry tells the context; it says nothing of features."""
    entry = {"id": "qwen", "object": "model", "created": 5, "max_model_len": 32768}
    assert find("qwen", {"id": "lora"}, entry) == Served(model="qwen", context=32768, created=5)


def test_companion() -> None:
    """A companion's entry tells context and features; unknown names are left out."""
    entry = {"id": "big", "context_length": 512, "features": ["chat", "suffixes", "n", 3]}
    assert find("", entry) == Served(
        model="big", context=512, features=frozenset({Feature.CHAT, Feature.N})
    )


def test_first_one_if_none_is_configured() -> None:
    """Without a configured model the first usable entry is taken."""
    assert find("", "junk", {"id": ""}, {"id": "a"}, {"id": "b"}) == Served(model="a")


def test_absent() -> None:
    """A model that is not listed is not made up."""
    assert find("c", {"id": "a"}) is None
    assert find("") is None


@pytest.mark.parametrize("length", [0, -1, "4096", 4096.0, True, None])
def test_odd_context(length: Any) -> None:
    """A context that is no positive integer is unknown."""
    assert find("a", {"id": "a", "max_model_len": length}) == Served(model="a")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"data":{}}'])
def test_not_a_list(body: bytes) -> None:
    """Something else than a list of models is malformed."""
    with pytest.raises(Malformed):
        served(body, "")
