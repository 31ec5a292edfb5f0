"""Models for engine tests. A missing one skips the test, visibly."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUNDLED = ROOT / "backends" / "engine" / "bundled"
SHARED = ROOT.parent / "shared" / "models"


def model(path: Path) -> Path:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    if not path.is_file():
        pytest.skip(f"no {path.name} here")
    return path


@pytest.fixture(scope="session")
def llama_cpp() -> None:
    """For tests that need the library, but no weights."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")


@pytest.fixture(scope="session")
def stories() -> Path:
    return model(SHARED / "stories260K-q8_0.gguf")


@pytest.fixture(scope="session")
def bundled_draft() -> Path:
    return model(BUNDLED / "tandem-demo-draft-q8_0.gguf")


@pytest.fixture(scope="session")
def bundled_target() -> Path:
    return model(BUNDLED / "tandem-demo-target-q8_0.gguf")


@pytest.fixture(scope="session", params=["stories260K", "bundled target"])
def any_model(request: pytest.FixtureRequest) -> Path:
    """Each model that a property of the engine is shown on."""
    if request.param == "stories260K":
        return model(SHARED / "stories260K-q8_0.gguf")
    return model(BUNDLED / "tandem-demo-target-q8_0.gguf")
