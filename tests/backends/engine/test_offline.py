"""Quantizing and comparing, on the bundled target, in their process."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.engine.gguf import read
from backends.engine.offline_client import OfflineFailed, run
from tests.fakes.gguf_models import write_model


def silent(_: float) -> None:
    pass


def quantize(source: Path, target: Path, type: str) -> tuple[list[float], dict[str, int]]:
    seen: list[float] = []
    done = run(
        "quantize", seen.append, source=str(source), target=str(target), type=type, threads=1
    )
    return seen, done


def compare(a: Path, b: Path, text: Path | None = None) -> dict[str, float]:
    return run("compare", silent, a=str(a), b=str(b), text=str(text) if text else None, threads=1)


@pytest.fixture(scope="module")
def smaller(bundled_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target as Q4_0."""
    path = tmp_path_factory.mktemp("quantized") / "q4_0.gguf"
    quantize(bundled_target, path, "Q4_0")
    return path


def test_quantize_goes_down_to_k_quants(bundled_target: Path, tmp_path: Path) -> None:
    """Q4_K_M of the target: progress to 1, fewer bits, and rows of 704 in a neighbouring type."""
    path = tmp_path / "q4_k_m.gguf"
    seen, done = quantize(bundled_target, path, "Q4_K_M")
    assert seen == sorted(seen) and seen[-1] == 1
    gguf = read(path)
    assert gguf.quantization == "Q4_K_M"
    assert 4.5 < gguf.bits < 6 < read(bundled_target).bits
    assert done["fallback"] == sum(t.type == "Q5_0" or t.type == "Q8_0" for t in gguf.tensors) > 0
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_damaged_source_is_a_sentence(tmp_path: Path) -> None:
    """What llama.cpp cannot read costs its process at most, and leaves nothing behind."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(OfflineFailed):
        quantize(broken, tmp_path / "out.gguf", "Q8_0")
    assert [each.name for each in tmp_path.iterdir()] == [broken.name]


def test_a_model_equals_itself(bundled_target: Path) -> None:
    """Compared with itself: no divergence, every token agreed on, one perplexity."""
    same = compare(bundled_target, bundled_target)
    assert (same["kl"], same["agreement"]) == (0, 1)
    assert same["perplexity_a"] == same["perplexity_b"] > 1


def test_fewer_bits_cost_something(bundled_target: Path, smaller: Path) -> None:
    """Q4_0 differs from Q8_0, and not by much: it is the same model."""
    cost = compare(bundled_target, smaller)
    assert 0 < cost["kl"] < 0.5
    assert 0.5 < cost["agreement"] < 1
    assert cost["tokens"] > 500


def test_perplexity_is_of_the_given_text(bundled_target: Path, tmp_path: Path) -> None:
    """Text that repeats itself is less of a surprise than letters at random."""
    plain, random = tmp_path / "plain.txt", tmp_path / "random.txt"
    plain.write_text("def add(a, b):\n    return a + b\n\n" * 20)
    random.write_text("qzxv jkwp mfgh ztrq xnbv " * 4 + "ywqk pzjx vbnm rtqp")
    easy, hard = (
        compare(bundled_target, bundled_target, text)["perplexity_a"] for text in (plain, random)
    )
    assert easy < hard / 2


def test_other_vocabularies_are_refused(bundled_target: Path, tmp_path: Path) -> None:
    """Two models that cut text differently have nothing to compare token by token."""
    other = write_model(tmp_path / "other.gguf", "llama")
    with pytest.raises(OfflineFailed, match="different vocabularies"):
        compare(bundled_target, other)
