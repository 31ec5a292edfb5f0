"""`tandem router`, run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_policies.learned.artifact import load
from tests.fakes.artifact import save
from tests.gateway.cli.test_commands import tandem

PROMPTS = ["What is the sum of 2 and 3?", "Prove that $\\sqrt{2}$ is irrational.", "hi"]
GIVEN = "".join(json.dumps({"id": n, "prompt": p}) + "\n" for n, p in enumerate(PROMPTS))


def test_score_answers_line_by_line(tmp_path: Path) -> None:
    """Each prompt gets its score, in order, the same as the policy's."""
    done = tandem("router", "score", given=GIVEN)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["id"] for each in found] == [0, 1, 2]
    assert found[1]["score"] > found[0]["score"]
    other = tandem("router", "score", "--artifact", str(save(tmp_path / "a")), given=GIVEN)
    assert json.loads(other.stdout.splitlines()[0])["score"] != found[0]["score"]


@pytest.mark.parametrize(
    ("given", "message"), [("nonsense\n", "line 1 is not JSON"), ('{"id": 1}\n', "no prompt")]
)
def test_a_bad_line_is_named(given: str, message: str) -> None:
    """The error says which line, and the exit status says that there was one."""
    done = tandem("router", "score", given=given)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_calibrate_starts_from_own_prompts(tmp_path: Path) -> None:
    """The new artifact starts from the scores of these prompts, and scores as the old one."""
    source, out = save(tmp_path / "a"), tmp_path / "b"
    done = tandem(
        "router", "calibrate", "--artifact", str(source), "--out", str(out),
        "--cloud-share", "0.34", given=GIVEN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 prompts; 34% score" in done.stdout
    expected = sorted(load(source).router.assess(prompt).score for prompt in PROMPTS)
    assert load(out).scores == pytest.approx(expected, abs=1e-6)


def test_a_missing_artifact_is_one_line(tmp_path: Path) -> None:
    """No traceback for what a user can mistype."""
    done = tandem("router", "score", "--artifact", str(tmp_path / "no"), given=GIVEN)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_train_and_evaluate(tmp_path: Path) -> None:
    """From labelled prompts to an artifact that `score` takes, and to a report."""
    pytest.importorskip("lightgbm", reason="the router-train extra is not installed")
    data = tmp_path / "mine.jsonl"
    rows = [
        {
            "prompt": f"item {n}: " + ("what is the colour of it?" if n % 2 else f"add {n} to {n}"),
            "scores": {"small": float(n % 2 or n % 10 == 0), "large": float(n % 7 > 0)},
        }
        for n in range(600)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--data", str(data), "--pair", "small,large"]
    trained = tandem("router", "train", *given, "--out", str(tmp_path / "out"))
    assert trained.returncode == 0, trained.stderr
    scored = tandem("router", "score", "--artifact", str(tmp_path / "out"), given=GIVEN)
    assert len(scored.stdout.splitlines()) == 3
    report = tmp_path / "report.html"
    done = tandem("router", "evaluate", *given, "--quick", "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "<svg" in report.read_text() and "oracle" in done.stdout
    wrong = tandem("router", "evaluate", *given[:3], "nobody,large")
    assert wrong.returncode == 2 and "pair" in wrong.stderr


TERMS = ("quality", "price", "latency", "energy")


def test_explain_has_the_score_and_what_it_is_made_of(tmp_path: Path) -> None:
    """`tandem route explain` shows what each candidate is worth, and parts that add up."""
    path = tmp_path / "tandem.yaml"
    path.write_text(
        "upstreams:\n"
        '  near: {kind: openai, zone: machine, base_url: "http://127.0.0.1:9/v1", model: a, '
        "profile: generic}\n"
        '  far: {kind: groq, model: b, api_key: "${KEY}", price: {input: 1, output: 2}}\n'
        "models:\n"
        "  mine: {candidates: [near, far], policy: [learned], cloud_share: 0.5}\n"
    )
    body = {"model": "mine", "messages": [{"role": "user", "content": PROMPTS[1]}]}
    done = tandem("route", "explain", "-c", str(path), given=json.dumps(body), KEY="k")
    assert done.returncode == 0, done.stderr
    assert "decided   learned, score" in done.stdout
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("score "))
    total, parts = float(lines[at].split()[1].rstrip(",")), lines[at + 1 :]
    assert sum(float(line.split()[0]) for line in parts) == pytest.approx(total, abs=1e-3)
    worths = [line for line in lines if "quality" in line]
    assert len(worths) == 2
    for line in worths:
        said = line.removeprefix("worth").split()
        quality, *costs = (float(said[said.index(word) + 1]) for word in TERMS)
        assert quality - sum(costs) == pytest.approx(float(said[0]), abs=3e-3)


def test_shadow_needs_a_gateway() -> None:
    """Without one at the address, one line says so."""
    done = tandem("router", "shadow", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2 and "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
