"""Labelled prompts: what is read, which models lend each other outcomes, and how folds are made."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from router_policies.training.data import BadData, folds, label, read


def write(path: Path, rows: list[Any]) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def row(prompt: str, **scores: float) -> dict[str, Any]:
    return {"prompt": prompt, "scores": scores}


def test_rows_need_only_a_prompt_and_scores(tmp_path: Path) -> None:
    """Source and group come from the file and the text; equal prompts share a group."""
    path = write(tmp_path / "mine.jsonl.gz", [row("a", x=1), row("a", x=0), row("b", x=1)])
    first, second, third = read([path])
    assert first.source == "mine" and first.group == second.group != third.group
    assert read([write(tmp_path / "plain.jsonl", [row("Why?\nAnswer:", x=1)])])[0].prompt == "Why?"


@pytest.mark.parametrize(
    "bad", [{"prompt": "a"}, {"scores": {}}, [], {"prompt": "a", "scores": {"x": 2}}, 3]
)
def test_a_bad_row_is_named(tmp_path: Path, bad: Any) -> None:
    """The error says which line of which file."""
    path = write(tmp_path / "mine.jsonl", [row("a", x=1), bad])
    with pytest.raises(BadData, match=r"mine\.jsonl:2"):
        read([path])


def test_similar_models_lend_outcomes(tmp_path: Path) -> None:
    """A soft label is the mean over models of about the same accuracy, the other of the pair apart;
    the outcome as it came stays what it is."""
    rows = [
        row("1", weak=0, twin=1, far=1, strong=1),
        row("2", weak=1, twin=0, far=1, strong=1),
    ]
    data = read([write(tmp_path / "s.jsonl", rows)])
    labelled = label(data, {"s": ("weak", "strong")})
    assert labelled.soft_weak.tolist() == [0.5, 0.5]
    assert labelled.weak.tolist() == [0, 1] and labelled.gain.tolist() == [1, 0]
    assert labelled.soft_strong.tolist() == [1, 1]
    with pytest.raises(BadData, match="pair"):
        label(data, {"s": ("weak", "nobody")})


def test_near_duplicates_share_a_fold() -> None:
    """The fold is the group's, always the same, and all folds are used."""
    groups = [f"g{i // 3}" for i in range(300)]
    found = folds(groups, 5)
    assert all(found[i] == found[i - i % 3] for i in range(300))
    assert set(found.tolist()) == set(range(5)) and (found == folds(groups, 5)).all()
