"""Zero configuration: what is looked for, what is made of it, what is never done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gateway.config import Config
from gateway.discovery import DRAFT, PAIR, TARGET, Found, discover, engine_available, gguf_files

needs_engine = pytest.mark.skipif(not engine_available(), reason="llama-cpp-python not installed")


def look(
    env: dict[str, str] | None = None,
    folder: Path = Path("/nonexistent"),
    *,
    local_only: bool = False,
    neighbours: dict[int, object] | None = None,
) -> tuple[Found, list[httpx.Request]]:
    """One discovery with scripted neighbours by port; and the requests that it made."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        reply = (neighbours or {}).get(request.url.port or 0)
        if reply is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=json.dumps(reply))

    found = asyncio.run(
        discover(
            env or {},
            folder,
            local_only=local_only,
            transport=lambda: httpx.MockTransport(answer),
        )
    )
    return found, seen


@needs_engine
def test_nothing_at_all_gives_the_bundled_pair() -> None:
    """A fresh machine has all modes: the draft here, the target as companion, the pair of both."""
    found, _ = look()
    assert list(found.upstreams) == [DRAFT, TARGET, PAIR]
    assert found.needs_companion
    config = Config.build(
        upstreams={**found.upstreams, TARGET: {**found.upstreams[TARGET], "base_url": "http://h"}}
    )
    assert {"local", "cloud", "tandem", "auto"} <= set(config.aliases)


def test_keys_become_cloud_upstreams() -> None:
    """A provider key makes its upstream; the note names the variable and never the key."""
    found, _ = look({"GROQ_API_KEY": "gsk-canary", "MISTRAL_API_KEY": "mk-canary"})
    assert found.upstreams["groq"]["kind"] == "groq"
    assert found.upstreams["mistral"]["kind"] == "mistral"
    notes = "\n".join(found.notes)
    assert "GROQ_API_KEY" in notes
    assert "canary" not in notes


def test_neighbours_are_public_unless_configured() -> None:
    """A server on loopback may be a tunnel: it is used, and its zone stays public."""
    found, _ = look(neighbours={11434: {"data": [{"id": "llama3:8b"}]}, 8000: {"data": []}})
    assert found.upstreams["ollama"]["model"] == "llama3:8b"
    assert "zone" not in found.upstreams["ollama"]
    assert "vllm" not in found.upstreams


@pytest.mark.parametrize("reply", [[], {"data": 5}, {"data": [{}]}, {"error": "x"}, "text"])
def test_strange_neighbours_are_left_alone(reply: object) -> None:
    """Whatever else listens on those ports is not an upstream and breaks nothing."""
    found, _ = look(neighbours={8000: reply, 1234: reply})
    assert not {"vllm", "lmstudio"} & set(found.upstreams)


def test_local_only_looks_at_nothing_outside() -> None:
    """--local-only sends no probe, takes no key and closes the zone."""
    found, seen = look(
        {"GROQ_API_KEY": "k"}, local_only=True, neighbours={8000: {"data": [{"id": "x"}]}}
    )
    assert seen == []
    assert found.default_zone == "machine"
    assert not {"groq", "vllm"} & set(found.upstreams)


@needs_engine
def test_own_models_come_before_the_bundled_pair(tmp_path: Path) -> None:
    """With GGUF files in the folder the smallest is loaded and the others are named."""
    (tmp_path / "big.gguf").write_bytes(b"GGUF" * 10)
    (tmp_path / "Small.gguf").write_bytes(b"GGUF")
    (tmp_path / "split-00002-of-00002.gguf").write_bytes(b"G")
    assert [path.name for path in gguf_files(tmp_path)] == ["Small.gguf", "big.gguf"]
    found, _ = look(folder=tmp_path)
    assert list(found.upstreams) == ["small"]
    assert any("big.gguf" in note for note in found.notes)
    assert not found.needs_companion
