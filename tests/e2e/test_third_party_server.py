"""A real OpenAI server that we did not write as the cloud: `python -m llama_cpp.server`."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.conftest import BUNDLED, local_engine_missing
from tests.fakes.process import Serving, clean_env, serve

TARGET = BUNDLED / "tandem-demo-target-q8_0.gguf"
NEEDS = ("pydantic_settings", "sse_starlette", "starlette_context")


def missing() -> str | None:
    absent = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    return local_engine_missing() or (f"{absent[0]} is not installed" if absent else None)


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

CONFIG = """
upstreams:
  draft: {{kind: llama_cpp, zone: machine, model: "bundled:draft", slots: 2}}
  theirs:
    kind: openai
    zone: public
    base_url: "http://127.0.0.1:{port}/v1"
    model: theirs
    api_key: "${{THEIR_KEY}}"
    price: {{input: 0.5, output: 1.5, as_of: "2026-11"}}
  flat:
    kind: openai
    zone: public
    base_url: "http://127.0.0.1:{port}/v1"
    model: theirs
    api_key: "${{THEIR_KEY}}"
    price: {{flat: true}}
    extra_features: [echo]
  metered: {{kind: speculative, draft: draft, target: theirs, strategy: prefix_fanout}}
  fanned: {{kind: speculative, draft: draft, target: flat, strategy: prefix_fanout, always: true}}
  shot: {{kind: speculative, draft: draft, target: flat, strategy: one_shot, always: true}}
models:
  smart: {{candidates: [theirs, draft]}}
rules:
  - {{name: secret, when: {{header.x-team: {{eq: radiology}}}}, locality: machine}}
"""


@pytest.fixture(scope="module")
def theirs() -> Iterator[int]:
    """The third-party server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "llama_cpp.server"]
    options = {"--model": TARGET, "--model_alias": "theirs", "--port": port, "--n_ctx": 512}
    flags = [str(part) for pair in options.items() for part in pair]
    server = subprocess.Popen(
        [*command, *flags, "--api_key", "theirs-key"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None, "llama_cpp.server ended"
            assert time.monotonic() < deadline, "llama_cpp.server did not start"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/docs", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def ours(theirs: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway whose cloud is that server."""
    path = Path(tmp_path_factory.mktemp("config")) / "tandem.yaml"
    path.write_text(CONFIG.format(port=theirs))
    with serve("-c", str(path), env=clean_env(THEIR_KEY="theirs-key")) as running:
        yield running


def sdk(serving: Serving) -> OpenAI:
    return OpenAI(base_url=f"{serving.base_url}/v1", api_key="x", max_retries=0)


def test_streams_from_the_third_party(ours: Serving) -> None:
    """Its stream reaches the SDK whole, tier cloud, with a cost from the configured price."""
    with sdk(ours) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="smart",
            messages=[{"role": "user", "content": "What is Tandem?"}],
            max_tokens=16,
            stream=True,
            temperature=0,
        )
        chunks = list(raw.parse())
    assert raw.headers["x-tandem-tier"] == "cloud"
    assert raw.headers["x-tandem-route"] == "theirs"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    with ours.client() as http:
        record = http.get(f"/v1/requests/{raw.headers['x-request-id']}").json()
    assert record["outcome"] == "ok"
    assert record["cost_usd"] > 0


def test_whole_answer_passes_untouched(ours: Serving) -> None:
    """A whole answer is the third party's own document, byte for byte in what it says."""
    with ours.client() as http:
        body = {"model": "theirs", "prompt": "import os", "max_tokens": 8, "temperature": 0}
        answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["id"].startswith("cmpl-")
    assert answer.json()["model"] == "theirs"
    assert answer.headers["x-tandem-reason"] == "pin"
    assert float(answer.headers["x-tandem-cost-usd"]) > 0


def test_locality_rule_keeps_the_request_here(ours: Serving) -> None:
    """The team's header tightens the zone: the local model answers, even for the cloud's alias."""
    body = {
        "model": "smart",
        "messages": [{"role": "user", "content": "private"}],
        "max_tokens": 4,
    }
    with ours.client() as http:
        here = http.post("/v1/chat/completions", json=body, headers={"x-team": "radiology"})
        pinned = http.post(
            "/v1/chat/completions",
            json={**body, "model": "theirs"},
            headers={"x-team": "radiology"},
        )
    assert here.headers["x-tandem-tier"] == "local"
    assert pinned.status_code == 503
    assert pinned.json()["error"]["code"] == "local_unavailable"


def test_falls_back_to_local_when_the_cloud_dies(theirs: int, tmp_path: Path) -> None:
    """A cloud that refuses connections is replaced by the local model before the first byte."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = int(probe.getsockname()[1])
    path = tmp_path / "tandem.yaml"
    path.write_text(CONFIG.format(port=nobody))
    with serve("-c", str(path), env=clean_env(THEIR_KEY="x")) as running, running.client() as http:
        body = {
            "model": "smart",
            "messages": [{"role": "user", "content": "anyone?"}],
            "max_tokens": 4,
        }
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-reason"] == "fallback"
    assert answer.headers["x-tandem-tier"] == "local"


def test_its_echo_is_the_prompt_and_then_the_answer(ours: Serving) -> None:
    """What a server says again stands before what it says: the answer is what is left."""
    body = {"model": "flat", "prompt": "import os", "max_tokens": 8, "temperature": 0}
    with ours.client() as http:
        plain = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        echoed = http.post("/v1/completions", json={**body, "echo": True}).json()
    assert echoed["choices"][0]["text"] == f"import os{plain}"


@pytest.mark.parametrize("pair", ["fanned", "shot"])
def test_no_rung_is_used_that_it_does_not_bear(ours: Serving, pair: str) -> None:
    """It has no /tokenize of vLLM's and counts no predictions: each probe finds out, by itself, and
    the pair's answers are the server's own throughout."""
    messages = [{"role": "user", "content": "What is Tandem?"}]
    body = {"messages": messages, "max_tokens": 16, "temperature": 0}
    fresh = {"cache-control": "no-store"}
    with ours.client(headers=fresh) as http:

        def said(model: str) -> tuple[str, str]:
            found = http.post("/v1/chat/completions", json={**body, "model": model})
            assert found.status_code == 200, found.text
            text: str = found.json()["choices"][0]["message"]["content"]
            return text, found.headers.get("x-tandem-spec", "")

        plain, _ = said("flat")
        first, how = said(pair)
        assert (first, how.partition(";alpha")[0]) == (plain, "stream;probing")
        deadline = time.monotonic() + 60
        while (state := http.get(f"/v1/models/{pair}").json()["speculation"])["state"] == "probing":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert state["state"] == "dropped"
        again, how = said(pair)
        assert (again, how.partition(";alpha")[0]) == (plain, f"stream;{state['reason']}")


def test_where_prompts_are_billed_nothing_is_tried(ours: Serving) -> None:
    """A metered server is asked plainly and never probed."""
    body = {"model": "metered", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    with ours.client() as http:
        found = http.post("/v1/chat/completions", json=body)
        assert found.headers["x-tandem-spec"].startswith("stream;metered")
        assert http.get("/v1/models/metered").json()["speculation"]["state"] == "unproved"
