"""Training end to end on made-up prompts, where LightGBM is there."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from router_policies.learned.artifact import DEFAULT, load
from router_policies.training.data import BadData, Labelled, Row, folds, label, read
from router_policies.training.fit import blend_of, fit, held_out, predict, prepare
from router_policies.training.metrics import apgr
from router_policies.training.report import Evaluated, latencies, page
from router_policies.training.train import train

pytest.importorskip("lightgbm", reason="the router-train extra is not installed")

PAIRS = {"made": ("weak", "strong")}
WORDING = load(DEFAULT).router.wording


def made(count: int = 900, seed: int = 0) -> list[Row]:
    """Prompts of which the strong model is the better for those with numbers in them."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        hard = rng.random() < 0.5
        thing = rng.choice(["apples", "chairs", "letters", "stones"])
        told = f"{rng.randrange(900)} + {rng.randrange(900)}" if hard else "the green one"
        prompt = f"Say what is left of the {thing} after {told}, item {rng.choice('abcdef')}?"
        weak = float(rng.random() > (0.8 if hard else 0.2))
        scores = {"weak": weak, "strong": float(rng.random() > 0.1)}
        rows.append(
            Row(
                id=str(number),
                source="made",
                bench="made",
                category="numbers" if hard else "words",
                group=str(number),
                prompt=prompt,
                scores=scores,
            )
        )
    return rows


@pytest.fixture(scope="module")
def labelled() -> Labelled:
    return label(made(), PAIRS)


def test_what_can_be_learnt_is_learnt(labelled: Labelled) -> None:
    """Held-out prompts are ranked far better than by chance, and the weak model's chance fits."""
    prepared = prepare([row.prompt for row in labelled.rows], WORDING)
    said = held_out(labelled, prepared, folds([row.group for row in labelled.rows], 3))
    assert apgr(said.scores(blend_of(said)), labelled.gain) > 0.65
    assert abs(float(said.fails.mean()) - float(1 - labelled.weak.mean())) < 0.05


def test_numpy_says_what_lightgbm_says(labelled: Labelled, tmp_path: Path) -> None:
    """An artifact that was written and loaded scores as the heads did in training."""
    artifact = train(labelled, WORDING, tmp_path / "out", pairs=PAIRS)
    prepared = prepare([row.prompt for row in labelled.rows], WORDING, copies=True)
    heads = fit(labelled, prepared, np.arange(len(labelled.rows)))
    said = predict(heads, prepared, np.arange(50))
    for index in range(50):
        assessed = artifact.router.assess(labelled.rows[index].prompt)
        assert assessed.gain == pytest.approx(said.gain[index], abs=1e-5)
        assert assessed.fails == pytest.approx(said.fails[index], abs=1e-5)
        assert assessed.novelty == pytest.approx(said.novelty[index], abs=1e-9)


def test_training_again_gives_the_same_bytes(labelled: Labelled, tmp_path: Path) -> None:
    """Nothing in an artifact depends on the moment or on chance."""
    some = labelled.take(np.arange(500))
    for name in ("a", "b"):
        train(some, WORDING, tmp_path / name, pairs=PAIRS)
    for file in ("router.npz", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_no_prompt_is_in_an_artifact(labelled: Labelled, tmp_path: Path) -> None:
    """The manifest has golden prompts of our own and nobody else's."""
    train(labelled.take(np.arange(500)), WORDING, tmp_path / "out", pairs=PAIRS)
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert not any(row.prompt in text for row in labelled.rows)
    assert len(json.loads(text)["golden"]) == 64


def test_too_few_prompts_are_refused(labelled: Labelled, tmp_path: Path) -> None:
    """An artifact of nothing is not written."""
    with pytest.raises(BadData, match="at least"):
        train(labelled.take(np.arange(20)), WORDING, tmp_path / "out", pairs=PAIRS)
    assert not (tmp_path / "out").exists()


def test_a_report_is_one_file_without_scripts(labelled: Labelled) -> None:
    """Everything is inline; nothing is fetched and nothing runs; names are escaped."""
    prompts = [row.prompt for row in labelled.rows]
    scores = np.random.default_rng(0).random(len(prompts))
    html = page(
        Evaluated(
            labelled=labelled,
            scores=scores,
            fails=1 - scores,
            title="<b>mine</b>",
            held_out="Random.",
            latency_us=latencies(load(DEFAULT).router, prompts[:50]),
        )
    )
    assert "<svg" in html and "oracle" in html and "prompt length" in html
    assert "<script" not in html and "http" not in html and "<b>mine" not in html


def test_files_are_read_as_the_command_does(tmp_path: Path) -> None:
    """Rows written as JSON lines come back as they were."""
    path = tmp_path / "made.jsonl"
    rows = made(5)
    path.write_text(
        "".join(
            json.dumps({"prompt": r.prompt, "scores": r.scores, "group": r.group}) + "\n"
            for r in rows
        )
    )
    assert [r.prompt for r in read([path])] == [r.prompt for r in rows]
