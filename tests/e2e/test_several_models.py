"""Several local models and memory for one: through the gateway, with the OpenAI SDK."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from backends.engine import gguf
from backends.engine.footprint import footprint, resident
from backends.engine.settings import EngineSettings
from tests.conftest import BUNDLED, local_engine_missing
from tests.fakes.process import Serving, clean_env, serve, workers

QUESTION: Any = [{"role": "user", "content": "What is Tandem?"}]
CONTEXT, SLOTS = 512, 2

CONFIG = """
upstreams:
  kept: {{kind: llama_cpp, zone: machine, model: "bundled:draft", {small}, pin: true}}
  one: {{kind: llama_cpp, zone: machine, model: "bundled:target", {small}}}
  two: {{kind: llama_cpp, zone: machine, model: "bundled:target", {small}, keep_alive: 2s}}
  hasty: {{kind: llama_cpp, zone: machine, model: "bundled:target", {small}, max_wait: 10ms}}
  index: {{kind: llama_cpp, zone: machine, model: "bundled:draft", {small}, embeddings: mean}}
  huge: {{kind: llama_cpp, zone: machine, model: "bundled:target", context: 1024, slots: 64}}
models:
  either: {{candidates: [hasty, kept]}}
  fine: {{candidates: [kept, one], min_bits: 16}}
rules:
  - {{name: exact, when: {{header.x-team: {{eq: lab}}}}, min_bits: 12}}
memory: {{budget: {budget}, min_stay: 0.2s}}
cache: {{exact: off}}
"""


def size(file: str) -> int:
    """What a worker with this model takes."""
    settings = EngineSettings(model="", context=CONTEXT, slots=SLOTS)
    return footprint(gguf.read(BUNDLED / file), settings).total


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Room for the pinned draft and one target, and not for two targets."""
    if missing := local_engine_missing():
        pytest.skip(missing)
    draft, target = (size(f"tandem-demo-{name}-q8_0.gguf") for name in ("draft", "target"))
    config = tmp_path_factory.mktemp("several") / "tandem.yaml"
    small = f"context: {CONTEXT}, slots: {SLOTS}"
    config.write_text(CONFIG.format(small=small, budget=draft + target * 3 // 2))
    with serve("-c", str(config), env=clean_env(), all_up=False) as running:
        yield running


@pytest.fixture
def client(gateway: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0) as client:
        yield client


def ask(client: OpenAI, model: str, **more: Any) -> str:
    reply = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=8, temperature=0, **more
    )
    return reply.choices[0].message.content or ""


def states(gateway: Serving) -> dict[str, str]:
    with gateway.client() as plain:
        entries = plain.get("/v1/models").json()["data"]
    return {entry["id"]: entry["state"] for entry in entries if "state" in entry}


def until(wanted: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def free(gateway: Serving) -> None:
    """Until nothing but the pinned model works, which every test may begin with."""
    until(lambda: not {"loading", "unloading", "queued"} & set(states(gateway).values()))


def targets(gateway: Serving) -> list[int]:
    return workers(gateway.process.pid, "tandem-demo-target")


def test_cold_models_are_available_and_only_the_pinned_one_is_loaded(gateway: Serving) -> None:
    """The gateway is ready at once; one model is up, and what can never fit says why."""
    with gateway.client() as plain:
        ready = plain.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["local_models"]["kept"]["state"] == "loaded"
    assert states(gateway)["one"] == "cold"
    assert list(ready["down"]) == ["huge"] and "memory.budget" in ready["down"]["huge"]


def test_requests_alternate_between_models_that_do_not_fit_together(
    gateway: Serving, client: OpenAI
) -> None:
    """Each is loaded for its request, the other's process is gone, its memory returned; answers
    are the same whichever worker gives them."""
    answers = set()
    seen: list[int] = []
    for model in ("one", "two", "one", "two"):
        answers.add(ask(client, model))
        [worker] = targets(gateway)
        assert worker not in seen and not any(os.path.exists(f"/proc/{pid}") for pid in seen)
        seen.append(worker)
        memory = resident(worker)  # the budget counts what it will have when its cells are full
        assert memory is not None and memory <= 2 * size("tandem-demo-target-q8_0.gguf")
        told = states(gateway)
        assert (told[model], told["kept"]) == ("loaded", "loaded")
    assert len(answers) == 1


def test_a_model_leaves_after_its_keep_alive(gateway: Serving, client: OpenAI) -> None:
    """Unused for two seconds, and its process is gone, with nobody asking for the memory."""
    ask(client, "two")
    until(lambda: states(gateway)["two"] == "cold")
    assert targets(gateway) == []


def test_many_at_once_wait_for_one_load(gateway: Serving, client: OpenAI) -> None:
    """Six requests for a cold model, one worker, six answers."""
    until(lambda: states(gateway)["one"] == "cold" or ask(client, "two") is None)
    with ThreadPoolExecutor(6) as pool:
        answers = set(pool.map(lambda _: ask(client, "one"), range(6)))
    assert len(answers) == 1 and len(targets(gateway)) == 1


def test_a_busy_model_stays_and_the_next_waits_for_its_end(
    gateway: Serving, client: OpenAI
) -> None:
    """A stream is not cut for another model's sake, and the other is served after it."""
    stream = client.chat.completions.create(
        model="one", messages=QUESTION, max_tokens=300, stream=True, extra_body={"ignore_eos": True}
    )
    first = next(iter(stream))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(ask, client, "two")
        until(lambda: states(gateway)["two"] in ("queued", "loading", "loaded"))
        chunks = [first, *stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        assert other.result(60)


def test_at_its_limit_a_cold_model_is_503_with_progress_and_a_time(
    gateway: Serving, client: OpenAI
) -> None:
    """The error says what is going on; who comes back after Retry-After is served."""
    until(lambda: states(gateway)["hasty"] == "cold")
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, "hasty")
    error = caught.value
    assert error.status_code == 503 and error.code == "model_loading"
    assert int(error.response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in error.response.headers
    body: Any = error.body
    assert body["loading"]["state"] in ("queued", "loading")
    with OpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=5) as patient:
        assert ask(patient, "hasty")


def test_an_alias_falls_back_from_a_model_that_is_not_there_in_time(
    gateway: Serving, client: OpenAI
) -> None:
    """A cold candidate costs its `max_wait` and no more."""
    ask(client, "one")
    until(lambda: states(gateway)["hasty"] == "cold")
    raw = client.chat.completions.with_raw_response.create(
        model="either", messages=QUESTION, max_tokens=4
    )
    assert raw.headers["x-tandem-route"] == "kept"


def test_an_alias_and_a_rule_may_demand_bits(client: OpenAI) -> None:
    """The pair has 8.5 bits a weight, which a pin does not get around either."""
    for model, headers in (("fine", {}), ("kept", {"x-team": "lab"})):
        with pytest.raises(openai.BadRequestError, match="bits a weight"):
            ask(client, model, extra_headers=headers)


def test_metrics_tell_loads_unloads_and_bytes(gateway: Serving) -> None:
    """By model and reason, beside the budget."""
    with gateway.client() as plain:
        text = plain.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tandem_m"))
    assert float(lines['tandem_model_loads_total{upstream="kept"}']) == 1
    assert float(lines['tandem_model_loads_total{upstream="one"}']) >= 2
    assert float(lines['tandem_model_load_seconds_total{upstream="one"}']) > 0
    assert float(lines['tandem_model_unloads_total{reason="memory",upstream="one"}']) >= 1
    assert float(lines['tandem_model_unloads_total{reason="idle",upstream="two"}']) >= 1
    taken = [v for k, v in lines.items() if k.startswith("tandem_model_resident_bytes")]
    assert 0 < sum(map(float, taken)) <= float(lines["tandem_memory_budget_bytes"])


def test_embeddings_load_their_model_too(gateway: Serving, client: OpenAI) -> None:
    """A model that embeds is loaded for it, is busy while it does, and gives its place up after."""
    ask(client, "one")
    assert states(gateway)["index"] == "cold"
    made = client.embeddings.create(model="index", input=["a", "b"])
    assert len(made.data) == 2
    assert states(gateway)["index"] == "loaded"
    assert ask(client, "one")
