"""The small commands, run as a user runs them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from gateway.__main__ import parser
from gateway.limits.keys import digest_of
from tests.fakes.process import clean_env

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "deploy" / "gateway.example.yaml"
CONFIG = """
upstreams:
  near: {kind: openai, zone: machine, base_url: "http://127.0.0.1:9/v1", model: a, profile: generic}
  far: {kind: groq, zone: public, model: b, api_key: "${KEY}", price: {input: 1, output: 2}}
models:
  smart: {candidates: [far, near]}
rules:
  - {name: private, when: {header.x-team: {eq: radiology}}, locality: machine}
  - {name: short, when: {max_tokens: {lt: 50}}, use: near}
"""


def tandem(*arguments: str, given: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        input=given,
        capture_output=True,
        text=True,
        env=clean_env(**env),
        timeout=60,
    )


def config(folder: Path, text: str = CONFIG) -> str:
    path = folder / "tandem.yaml"
    path.write_text(text)
    return str(path)


def request(**changes: object) -> str:
    body = {"model": "smart", "messages": [{"role": "user", "content": "hi"}], **changes}
    return json.dumps(body)


def test_explain_says_where_and_why(tmp_path: Path) -> None:
    """The first line of the route is the upstream that would answer, with what it would cost."""
    done = tandem("route", "explain", "-c", config(tmp_path), given=request(), KEY="k")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (first,) = [line for line in lines if line.startswith("goes to")]
    (second,) = [line for line in lines if line.startswith("then to")]
    assert "far (cloud, public, 0.000513 USD)" in first
    assert "near (local, machine" in second


def test_explain_follows_rules_and_zones(tmp_path: Path) -> None:
    """Rules and zones decide as they do live, and say so."""
    path = config(tmp_path)
    ruled = tandem("route", "explain", "-c", path, given=request(max_tokens=5), KEY="k")
    assert "decided   rule (short)" in ruled.stdout
    kept = tandem(
        "route", "explain", "-c", path, "--header", "X-Team: radiology", given=request(), KEY="k"
    )
    assert "zone      machine" in kept.stdout
    assert "not to    far: zone" in kept.stdout
    assert "goes to   near" in kept.stdout


def test_explain_shows_the_error_a_client_would_get(tmp_path: Path) -> None:
    """A request that nothing may serve exits 2 with status and code."""
    path = config(tmp_path)
    done = tandem(
        *("route", "explain", "-c", path, "--header", "x-tandem-zone: machine"),
        given=request(model="far"),
        KEY="k",
    )
    assert done.returncode == 2
    assert "503 local_unavailable" in done.stderr
    assert tandem("route", "explain", "-c", path, given="{", KEY="k").returncode == 2


def test_explain_can_be_asked_as_a_key(tmp_path: Path) -> None:
    """With a key in a header it explains what that key's requests get; a wrong one is the 401 that
    a client would see, and a header without a colon is a mistake of the command line."""
    keys = f'keys: [{{digest: "sha256:{digest_of("tdm-mine")}", zone: machine}}]\n'
    command = ("route", "explain", "-c", config(tmp_path, CONFIG + keys), "--header")
    done = tandem(*command, "Authorization: Bearer tdm-mine", given=request(), KEY="k")
    assert "zone      machine" in done.stdout and "not to    far: zone" in done.stdout, done.stderr
    wrong = tandem(*command, "Authorization: Bearer tdm-other", given=request(), KEY="k")
    assert wrong.returncode == 2 and "401" in wrong.stderr
    typo = tandem(*command, "x-team radiology", given=request(), KEY="k")
    assert typo.returncode == 2 and "a header is NAME:VALUE" in typo.stderr


def test_explain_writes_nothing(tmp_path: Path) -> None:
    """A dry run opens no label log: neither one that it would create, nor one that it could not."""
    for log in ("labels.jsonl", "nowhere/labels.jsonl"):
        path = config(tmp_path, f"{CONFIG}router: {{labels: {{path: {log}}}}}\n")
        done = tandem("route", "explain", "-c", path, given=request(), KEY="k")
        assert done.returncode == 0, done.stderr
        assert [each.name for each in tmp_path.iterdir()] == ["tandem.yaml"]


def test_a_label_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """`tandem serve` says which file and key it is, and exits 2."""
    path = config(tmp_path, f"{CONFIG}router: {{labels: {{path: nowhere/log}}}}\n")
    done = tandem("serve", "-c", path, "--port", "0", KEY="k")
    assert done.returncode == 2
    assert "router.labels.path: cannot write" in done.stderr and "nowhere/log" in done.stderr


def test_explain_shows_who_shares_the_load(tmp_path: Path) -> None:
    """A balanced group is shown with each one's share, and how the first was picked."""
    text = """
upstreams:
  one: {kind: vllm, base_url: "http://127.0.0.1:1/v1", model: m}
  two: {kind: vllm, base_url: "http://127.0.0.1:2/v1", model: m}
models: {smart: {candidates: [one, two], balance: {one: 3, two: 1}}}
"""
    done = tandem("route", "explain", "-c", config(tmp_path, text), given=request(model="smart"))
    assert "decided   static, balanced by load" in done.stdout, done.stderr
    (group,) = [line for line in done.stdout.splitlines() if line.startswith("balanced")]
    assert "one (share 75%, 0 in flight, 0 tokens warm" in group
    assert "two (share 25%" in group


def test_explain_needs_no_configuration() -> None:
    """Without a file it explains what zero configuration would do."""
    done = tandem("route", "explain", given=request(model="auto"))
    assert "goes to" in done.stdout + done.stderr or done.returncode == 2


def test_config_check(tmp_path: Path) -> None:
    """A good file is summed up; a bad one lists every mistake with its line, and exits 2."""
    good = tandem("config", "check", config(tmp_path), KEY="k")
    assert good.returncode == 0
    assert "smart: far, near" in good.stdout
    broken = CONFIG.replace("candidates: [far", "candidates: [fra").replace(
        "kind: groq", "kind: grok"
    )
    bad = tandem("config", "check", config(tmp_path, broken), KEY="k")
    assert bad.returncode == 2
    assert "tandem.yaml:4:" in bad.stderr
    assert "did you mean 'groq'" in bad.stderr
    assert "tandem.yaml:6:" in bad.stderr


def test_check_warns_of_what_is_not_here(tmp_path: Path) -> None:
    """A model file that is not on this machine, or no upstream at all, is a warning: the file may
    be meant for elsewhere.
    """
    (tmp_path / "here.gguf").write_bytes(b"")
    text = """
upstreams:
  a: {kind: llama_cpp, zone: machine, model: gone.gguf}
  b: {kind: llama_cpp, zone: machine, model: here.gguf, speculate: {draft: small.gguf}}
  c: {kind: llama_cpp, zone: machine, model: "bundled:draft"}
"""
    done = tandem("config", "check", config(tmp_path, text), "--model-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert [line.split(":")[1].strip() for line in warnings] == ["a", "b"]
    assert str(tmp_path / "gone.gguf") in warnings[0] and "small.gguf" in warnings[1]
    empty = tandem("config", "check", config(tmp_path, ""))
    assert empty.returncode == 0
    assert "warning: there are no upstreams" in empty.stdout


def test_bad_arguments_are_told_in_a_sentence(tmp_path: Path) -> None:
    """A port that is none and a folder that is not there end the command before anything starts."""
    for wrong in (("--port", "99999"), ("--port", "-1"), ("--model-dir", str(tmp_path / "gone"))):
        done = tandem("serve", *wrong)
        assert done.returncode == 2
        assert f"argument {wrong[0]}" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_usual_model_folder_need_not_exist(tmp_path: Path) -> None:
    """Nobody has to make the default folder first."""
    done = tandem("models", "list", TANDEM_MODELS=str(tmp_path / "later"))
    assert done.returncode == 0
    assert "none" in done.stdout


def test_every_option_says_what_it_does() -> None:
    """`--help` of each command, and of each of its actions, leaves no argument without words."""
    parsers = [parser()]
    for each in parsers:
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            else:
                assert action.help, f"{each.prog} {action.dest}"


def test_keys_create() -> None:
    """A new key is printed once, with the digest that the configuration takes."""
    done = tandem("keys", "create", "--tenant", "web")
    key = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("key"))
    assert f'sha256:{digest_of(key)}", tenant: web' in done.stdout


def test_models_list(tmp_path: Path) -> None:
    """Files in the model folder are listed with their sizes."""
    (tmp_path / "mine.gguf").write_bytes(b"GGUF" + bytes(2_000_000))
    done = tandem("models", "list", "--model-dir", str(tmp_path))
    assert "mine.gguf" in done.stdout
    assert "2.0 MB" in done.stdout


def test_serve_with_a_bad_file_says_why(tmp_path: Path) -> None:
    """A configuration that cannot be used ends `serve` with its mistakes, not with a traceback."""
    done = tandem("serve", "-c", config(tmp_path, "upstream: {}\n"))
    assert done.returncode == 2
    assert "did you mean 'upstreams'" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_warns_of_prices(tmp_path: Path) -> None:
    """A price that is old or missing is warned about; the configuration stays valid."""
    text = """
upstreams:
  old: {kind: groq, model: b, api_key: "${KEY}", price: {input: 1, output: 2, as_of: 2024-01-31}}
  none: {kind: vllm, base_url: "http://127.0.0.1:9", model: c}
  said: {kind: openrouter, model: d, api_key: "${KEY}"}
"""
    done = tandem("config", "check", config(tmp_path, text), KEY="k")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert [line.split(":")[1].strip() for line in warnings] == ["old", "none"]
    assert "2024-01-31" in warnings[0]
