"""What a log of labels teaches: whose answer a signal judges, and how much it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_policies.learned.artifact import DEFAULT, load
from router_policies.learned.features import NAMES
from router_policies.training.data import BadData, label
from router_policies.training.own import SOURCE, read_own, verdicts
from router_policies.training.train import train
from tests.router_policies.training.test_train import PAIRS, made


def line(id: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "kind": "request",
        "id": id,
        "key_id": "k",
        "numbers": [0.0] * len(NAMES),
        "pairs": [1, 2, 3],
        "tier": "local",
        "outcome": "ok",
        "fault": None,
        "weak_ok": 0.6,
        "strong_ok": 0.8,
    } | more


def log(path: Path, *lines: dict[str, Any], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + tail)
    return path


@pytest.mark.parametrize(
    ("more", "score", "again", "weak", "strong"),
    [
        ({}, None, None, [], []),
        ({}, 0.25, None, [("feedback", 0.25, 1.0)], []),
        ({"tier": "cloud"}, 1.0, None, [], [("feedback", 1.0, 1.0)]),
        ({"fault": "form"}, None, None, [("form", 0.0, 1.0)], []),
        ({"fault": "form"}, 1.0, "reask", [("feedback", 1.0, 1.0)], []),
        ({}, None, "regenerate", [("regenerate", 0.0, 0.3)], []),
        ({"outcome": "upstream_error", "fault": "empty"}, 0.0, None, [], []),
        ({"tier": "cloud", "escalated": True}, None, None, [("cascade", 0.0, 0.5)], []),
        ({"escalated": False}, None, None, [("cascade", 1.0, 0.5)], []),
        (
            {"tier": "speculative", "accepted": 0.9},
            0.0,
            None,
            [("acceptance", 1.0, 0.5)],
            [("feedback", 0.0, 1.0)],
        ),
        ({"tier": "local", "accepted": 0.9}, None, None, [], []),
    ],
)
def test_a_signal_judges_the_side_that_it_is_about(
    more: dict[str, Any],
    score: float | None,
    again: str | None,
    weak: list[Any],
    strong: list[Any],
) -> None:
    """With router.md's weights; what a person says stands alone; silence says nothing."""
    assert verdicts(line(**more), score, again) == (weak, strong)


def test_the_last_feedback_counts_and_a_torn_line_is_skipped(tmp_path: Path) -> None:
    """And of the side that did not answer, what the router believed is kept."""
    said = [{"kind": "feedback", "id": "a", "key_id": "k", "score": score} for score in (0, 1)]
    other = {"kind": "feedback", "id": "a", "key_id": "else", "score": 0}
    path = log(tmp_path / "log", line(), *said, other, line("b"), tail='{"kind": "req')
    own = read_own([path])
    assert (own.seen, own.kinds) == (2, {"feedback": 1})
    assert own.labelled.weak.tolist() == [1.0]
    assert own.labelled.strong.tolist() == [0.8]


def test_a_log_without_any_signal_says_so(tmp_path: Path) -> None:
    """Nothing to learn from is an error that counts what was there."""
    with pytest.raises(BadData, match="none of 2 logged requests"):
        read_own([log(tmp_path / "log", line("a"), line("b"))])


def test_own_rows_and_shipped_rows_are_trained_together(tmp_path: Path) -> None:
    """The manifest counts both, and no figure is given for what was only believed."""
    pytest.importorskip("lightgbm", reason="the router-train extra is not installed")
    rng = np.random.default_rng(3)
    lines = [
        line(str(n), numbers=rng.normal(size=len(NAMES)).tolist(), fault="empty") for n in range(40)
    ]
    own = read_own([log(tmp_path / "log", *lines)])
    wording = load(DEFAULT).router.wording
    manifest = train(
        label(made(500), PAIRS), wording, tmp_path / "out", pairs=PAIRS, own=own
    ).manifest
    assert manifest["rows"] == 540
    assert manifest["own"] == {"rows": 40, "requests": 40, "signals": {"empty": 40}}
    assert not any(SOURCE in name for name in manifest["metrics"])
