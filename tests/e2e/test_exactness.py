"""DESIGN 2.5 on the running product: `tandem` says exactly what `cloud` says.

Two gateways, as on two machines: a companion with the target, and an edge that drafts. `always`
keeps the edge drafting, which its controller would stop on cores that both share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import local_engine_missing
from tests.fakes.process import Serving, serve

CONFIG = """
upstreams:
  near: {{kind: llama_cpp, zone: machine, model: "bundled:draft"}}
  far:
    kind: companion
    zone: machine
    tier: cloud
    base_url: {base_url}
    model: tandem-demo-target
  both: {{kind: speculative, draft: near, target: far, always: true}}
"""

TOKENS = 128
PROMPTS = [
    "What is Tandem?",
    "Write a Python function that adds two numbers.",
    "Name three colours.",
    "What is 12 + 30?",
    "Write a haiku about rivers.",
    "Give me a JSON object with a name and an age.",
    "Who are you?",
    "Write a Python class for a stack.",
    "List the days of the week.",
    "Hello!",
    "Explain what a cache is.",
    "Write a for loop in Python.",
    "What is the capital of France?",
    "Translate nothing; just say yes.",
    "Résumé, naïve, 東京, emoji 🙂",
    "Write a Python function that reverses a string.",
    "How does a gateway work?",
    "Count from one to ten.",
    "Write a docstring.",
    "Goodbye.",
]
assert len(PROMPTS) == 20


@pytest.fixture(scope="module")
def companion() -> Iterator[Serving]:
    """The gateway that verifies."""
    missing = local_engine_missing()
    if missing:
        pytest.skip(missing)
    with serve("--companion") as running:
        yield running


@pytest.fixture(scope="module")
def edge(companion: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The gateway that drafts, in front of a companion."""
    path = Path(tmp_path_factory.mktemp("edge")) / "tandem.yaml"
    path.write_text(CONFIG.format(base_url=companion.base_url))
    with serve("-c", str(path)) as running:
        yield running


def answer(client: httpx.Client, model: str, body: dict[str, object], path: str) -> httpx.Response:
    fresh = {"cache-control": "no-cache, no-store"}
    found = client.post(path, json={**body, "model": model}, headers=fresh)
    assert found.status_code == 200, found.text
    assert found.headers["x-tandem-cache"] != "hit"
    return found


def test_greedy_answers_are_byte_identical(edge: Serving) -> None:
    """20 prompts of up to 128 tokens at temperature 0: the same bytes, finish and token count."""
    accepted = 0
    with edge.client() as client:
        for prompt in PROMPTS:
            body: dict[str, object] = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
            plain = answer(client, "cloud", body, "/v1/completions")
            drafted = answer(client, "tandem", body, "/v1/completions")
            one, other = plain.json(), drafted.json()
            assert one["choices"] == other["choices"], prompt
            assert one["usage"]["completion_tokens"] == other["usage"]["completion_tokens"]
            record = client.get(f"/v1/requests/{drafted.headers['x-request-id']}").json()
            assert record["tier"] == "speculative"
            accepted += record["speculation"]["accepted"]
    assert accepted > 0, "no draft was ever used, so nothing was shown"


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_chat_answers_are_identical(edge: Serving, temperature: float) -> None:
    """Chat turns too, and samples with a seed: drafts never change what the target says."""
    with edge.client() as client:
        for prompt in PROMPTS[:6]:
            body: dict[str, object] = {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 48,
                "temperature": temperature,
                "seed": 11,
            }
            plain = answer(client, "cloud", body, "/v1/chat/completions").json()
            drafted = answer(client, "tandem", body, "/v1/chat/completions").json()
            assert (
                plain["choices"][0]["message"]["content"]
                == (drafted["choices"][0]["message"]["content"])
            )


def test_forms_are_identical_too(edge: Serving) -> None:
    """A JSON schema, a tool that must be called, penalties and stops: the same message."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    function = {"name": "look_up", "parameters": schema}
    forms: list[dict[str, object]] = [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "p", "schema": schema},
            }
        },
        {"tools": [{"type": "function", "function": function}], "tool_choice": "required"},
        {"frequency_penalty": 0.7, "stop": ["."]},
    ]
    with edge.client() as client:
        for form in forms:
            body: dict[str, object] = {
                "messages": [{"role": "user", "content": "Who are you, and how old?"}],
                "max_tokens": 60,
                "temperature": 0.8,
                "seed": 3,
                **form,
            }
            said = []
            for model in ("cloud", "tandem"):
                found = answer(client, model, body, "/v1/chat/completions")
                [choice] = found.json()["choices"]
                for call in choice["message"].get("tool_calls") or ():
                    call.pop("id")
                said.append(choice)
                if model == "tandem":
                    assert found.headers["x-tandem-tier"] == "speculative"
            assert said[0] == said[1], form


def test_the_companion_says_what_it_promises(companion: Serving, edge: Serving) -> None:
    """/metrics has the promise that its target holds, and what the shadow audits found."""
    with edge.client() as client:
        body: dict[str, object] = {"prompt": PROMPTS[1], "max_tokens": TOKENS, "temperature": 0}
        for _ in range(4):
            answer(client, "tandem", body, "/v1/completions")
    with companion.client() as client:
        told = client.get("/metrics").text
    promises = [line for line in told.splitlines() if line.startswith("tandem_spec_exactness{")]
    assert sorted(line[-3:] for line in promises) == ["0.0", "1.0"]
    assert any('exactness="bitwise"' in line and line.endswith("1.0") for line in promises)
    audits = [line for line in told.splitlines() if line.startswith("tandem_spec_audits_total{")]
    assert len(audits) == 3
    assert [line for line in audits if 'result="mismatch"' in line and line.endswith(" 0.0")]


def test_a_companion_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the companion in mid-answer: what was said is the beginning of its answer, and a
    typed error ends the stream; nothing is doubled and no end is faked."""
    missing = local_engine_missing()
    if missing:
        pytest.skip(missing)
    path = tmp_path / "tandem.yaml"
    body = {"prompt": PROMPTS[1], "max_tokens": 400, "temperature": 0}
    with serve("--companion") as companion:
        path.write_text(CONFIG.format(base_url=companion.base_url))
        with serve("-c", str(path)) as running, running.client() as client:
            whole = answer(client, "cloud", body, "/v1/completions").json()["choices"][0]["text"]
            said, ends = "", []
            asked = {**body, "model": "tandem", "stream": True}
            with client.stream("POST", "/v1/completions", json=asked) as stream:
                for line in stream.iter_lines():
                    data = line.removeprefix("data: ")
                    if not line.startswith("data: ") or data == "[DONE]":
                        ends += [data] if data == "[DONE]" else []
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        ends.append(event["error"]["code"])
                    else:
                        said += event["choices"][0]["text"]
                    if len(said) > 20:
                        companion.process.kill()
            assert 20 < len(said) < len(whole)
            assert whole.startswith(said)
            assert ends == ["upstream_broken"]
