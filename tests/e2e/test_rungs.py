"""The rungs on the running gateway, from a YAML file: what a client and an operator see of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import local_engine_missing
from tests.fakes.bundled_pair import Models, loaded
from tests.fakes.predicting import predicting
from tests.fakes.running import Running, running
from tests.fakes.vllm_like import VllmLike, vllm_like

CONFIG = """
upstreams:
  near: {{kind: llama_cpp, zone: machine, model: "bundled:draft", slots: 2}}
  box: {{kind: vllm, zone: machine, tier: cloud, base_url: {box}, price: {{flat: true}}}}
  cloud:
    kind: openai
    profile: openai
    zone: machine
    tier: cloud
    base_url: {cloud}
    model: gpt-4o-real
    price: {{input: 2.5, output: 10}}
  fanned: {{kind: speculative, draft: near, target: box, ahead: 4, always: true}}
  shot: {{kind: speculative, draft: near, target: cloud, draft_for: 2s, always: true}}
cache: {{exact: off}}
"""
BODY = {
    "messages": [{"role": "user", "content": "What is Tandem?"}],
    "max_tokens": 32,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    if missing := local_engine_missing():
        pytest.skip(missing)
    with loaded() as both:
        yield both


@asynccontextmanager
async def gateway(models: Models) -> AsyncIterator[tuple[Running, VllmLike]]:
    async with (
        vllm_like(models.target) as (server, box),
        predicting(models.target) as (_, cloud),
        running(CONFIG.format(box=f"{box}/v1", cloud=f"{cloud}/v1")) as front,
    ):
        yield front, server


async def ask(front: Running, model: str, **fields: Any) -> Any:
    return await front.http.post("/v1/chat/completions", json={**BODY, "model": model, **fields})


async def proved(front: Running, pair: str) -> None:
    await ask(front, pair)
    backend: Any = front.gateway.backends[pair]
    assert (await backend._ladder.settled()).state == "proved"


def said(stream: str) -> str:
    text = ""
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text += choice["delta"].get("content") or ""
    return text


@pytest.mark.parametrize(
    ("pair", "plain", "strategy"),
    [("fanned", "box", "prefix_fanout"), ("shot", "cloud", "one_shot")],
)
def test_it_says_what_the_upstream_says(
    models: Models, pair: str, plain: str, strategy: str
) -> None:
    """Streamed and whole, the same text; header, record, metrics and listing name the strategy."""

    async def story() -> None:
        async with gateway(models) as (front, _):
            before = (await front.http.get(f"/v1/models/{pair}")).json()["speculation"]
            assert before == {"strategy": strategy, "state": "unproved", "reason": ""}
            await proved(front, pair)
            theirs = (await ask(front, plain)).json()["choices"][0]
            whole = await ask(front, pair)
            assert whole.json()["choices"][0]["message"]["content"] == theirs["message"]["content"]
            assert whole.json()["choices"][0]["finish_reason"] == theirs["finish_reason"]
            assert whole.headers["x-tandem-spec"].startswith(f"{strategy};alpha=")
            streamed = await ask(front, pair, stream=True)
            assert said(streamed.text) == theirs["message"]["content"]
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert streamed.headers["x-tandem-spec"] == strategy
            assert streamed.headers["x-tandem-tier"] == "speculative"
            path = f"/v1/requests/{streamed.headers['x-request-id']}"
            record = (await front.http.get(path)).json()
            assert record["speculation"]["strategy"] == strategy
            assert record["speculation"]["accepted"] > 0
            assert record["approximate"] is False
            assert record["outcome"] == "ok"
            assert record["cost_usd"] is not None
            now = (await front.http.get(f"/v1/models/{pair}")).json()["speculation"]
            assert now["state"] == "proved"
            metrics = (await front.http.get("/metrics")).text
            state = f'pair="{pair}",state="proved",strategy="{strategy}"'
            assert f"tandem_spec_strategy_state{{{state}}} 1.0" in metrics
            assert f'tandem_spec_probes_total{{pair="{pair}"}} 1.0' in metrics

    models.run(story())


def test_tools_still_reach_the_upstream(models: Models) -> None:
    """What cannot be drafted is no reason to refuse it: the pair takes what its target takes."""

    async def story() -> None:
        async with gateway(models) as (front, server):
            tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            found = await ask(front, "fanned", tools=[tool])
            assert found.status_code == 200
            assert found.headers["x-tandem-spec"].startswith("stream;tools")
            assert server.served[-1][1]["tools"] == [tool]

    models.run(story())


def test_the_zone_holds_for_pairs_too(models: Models) -> None:
    """A tightened request is refused, and the server hears nothing of it."""

    async def story() -> None:
        async with vllm_like(models.target) as (server, box):
            config = CONFIG.format(box=f"{box}/v1", cloud=f"{box}/v1")
            config = config.replace("kind: vllm, zone: machine", "kind: vllm, zone: organisation")
            async with running(config) as front:
                server.served.clear()
                found = await front.http.post(
                    "/v1/chat/completions",
                    json={**BODY, "model": "fanned"},
                    headers={"x-tandem-zone": "machine"},
                )
                assert found.status_code == 503
                assert found.json()["error"]["code"] == "local_unavailable"
                asked = {path for path, _ in server.served}
                assert not asked & {"/tokenize", "/v1/completions", "/v1/chat/completions"}

    models.run(story())
