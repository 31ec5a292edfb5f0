"""Fixtures for every folder: a running gateway, the bundled pair, real services."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.process import Serving, serve

BUNDLED = Path(__file__).parent.parent / "backends" / "engine" / "bundled"


def local_engine_missing() -> str | None:
    """Why local models cannot run here, or None."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed"
    manifest = BUNDLED / "manifest.json"
    if not manifest.is_file() or not json.loads(manifest.read_text()):
        return "the bundled pair is not here"
    return None


@pytest.fixture(scope="session")
def gateway() -> Iterator[Serving]:
    """`tandem serve` with no configuration, as a newcomer starts it, on a free port."""
    missing = local_engine_missing()
    if missing:
        pytest.skip(missing)
    with serve() as running:
        yield running
