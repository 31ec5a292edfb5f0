"""Embeddings through a running gateway: the official SDK, routing, cache, record, metrics, keys."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import local_engine_missing
from tests.fakes.gguf_models import write_model
from tests.fakes.process import Serving, clean_env, serve

PATH = "/v1/embeddings"
TEXTS = ["What is Tandem?", "def add(a, b):", "x"]
CONFIG = """
server: {port: 0}
upstreams:
  talker: {kind: llama_cpp, zone: machine, model: "bundled:draft", slots: 1}
  both: {kind: llama_cpp, zone: machine, model: "bundled:target", slots: 1, embeddings: mean}
  bert: {kind: llama_cpp, zone: machine, model: BERT}
  far: {kind: openai, zone: public, base_url: "http://127.0.0.1:9/v1", model: far-embed}
models:
  auto: {candidates: [talker, far, both]}
  away: {candidates: [far]}
cache: {exact: {memory: 8MiB}}
"""

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=str(local_engine_missing())
)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway from a YAML file, with a model that also generates and an encoder."""
    folder = tmp_path_factory.mktemp("embeddings")
    bert = write_model(folder / "bert.gguf", "bert")
    config = folder / "tandem.yaml"
    config.write_text(CONFIG.replace("BERT", str(bert)))
    with serve("-c", str(config), env=clean_env()) as running:
        yield running


@pytest.fixture(scope="module")
def client(embedding: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{embedding.base_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["both", "bert"])
def test_the_sdk(client: OpenAI, model: str) -> None:
    """The SDK's default (base64) and floats are the same unit vectors, in order, with usage."""
    plain = client.embeddings.create(model=model, input=TEXTS)
    floats = client.embeddings.create(model=model, input=TEXTS, encoding_format="float", user="u")
    assert [entry.index for entry in plain.data] == [0, 1, 2]
    assert plain.model == model
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0
    for one, two in zip(plain.data, floats.data, strict=True):
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(np.float32(one.embedding), np.float32(two.embedding))
    short = client.embeddings.create(model=model, input=TEXTS[0], dimensions=8).data[0].embedding
    whole = np.array(plain.data[0].embedding[:8])
    assert short == pytest.approx(whole / np.linalg.norm(whole), abs=1e-6)


def test_base64_is_little_endian_float32(embedding: Serving) -> None:
    """What the wire has is base64 of four bytes a number, the same numbers as the floats."""
    with embedding.client() as http:
        asked = {"model": "both", "input": "Hello"}
        text = http.post(PATH, json={**asked, "encoding_format": "base64"}).json()
        floats = http.post(PATH, json=asked).json()
    [one], [two] = text["data"], floats["data"]
    decoded = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    assert np.array_equal(decoded, np.float32(two["embedding"]))
    assert set(one) == {"object", "index", "embedding"}


def test_async_client(embedding: Serving) -> None:
    """Concurrent requests of the async client each get their own texts' vectors."""

    async def story() -> None:
        async with AsyncOpenAI(base_url=f"{embedding.base_url}/v1", api_key="x") as client:
            texts = [f"text number {i}" for i in range(16)]
            each = await asyncio.gather(
                *(client.embeddings.create(model="both", input=text) for text in texts)
            )
            listed = await client.embeddings.create(model="both", input=texts)
            assert [e.data[0].embedding for e in each] == [e.embedding for e in listed.data]
            assert sum(e.usage.total_tokens for e in each) == listed.usage.total_tokens

    asyncio.run(story())


def test_an_alias_finds_who_embeds(embedding: Serving) -> None:
    """A model that only generates is passed over, a dead upstream is fallen back from."""
    with embedding.client() as http:
        answer = http.post(
            PATH, json={"model": "auto", "input": "route me"}, headers={"cache-control": "no-cache"}
        )
        record = http.get(f"/v1/requests/{answer.headers['x-request-id']}").json()
    assert answer.status_code == 200
    assert answer.headers["x-tandem-route"] == "both"
    assert answer.headers["x-tandem-reason"] == "fallback"
    assert [attempt["upstream"] for attempt in record["attempts"]] == ["far", "both"]
    assert (record["endpoint"], record["outcome"], record["tier"]) == ("embeddings", "ok", "local")
    assert record["usage"]["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert record["finish_reason"] is None


def test_private_texts_stay(embedding: Serving) -> None:
    """A text of the machine zone never leaves: 503 where only a public upstream embeds."""
    with embedding.client() as http:
        zone = {"x-tandem-zone": "machine"}
        answer = http.post(PATH, json={"model": "away", "input": "secret"}, headers=zone)
        inside = http.post(PATH, json={"model": "auto", "input": "secret"}, headers=zone)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "local_unavailable")
    assert (inside.status_code, inside.headers["x-tandem-route"]) == (200, "both")


def test_the_cache_keeps_vectors(embedding: Serving) -> None:
    """The same texts again come from the cache, in whichever format is asked for this time."""
    with embedding.client() as http:
        asked = {"model": "both", "input": ["keep me", "and me"]}
        first = http.post(PATH, json=asked)
        again = http.post(PATH, json=asked)
        packed = http.post(PATH, json={**asked, "encoding_format": "base64"})
    assert [a.headers["x-tandem-cache"] for a in (first, again, packed)] == ["miss", "hit", "hit"]
    assert first.json() == again.json()
    assert isinstance(packed.json()["data"][0]["embedding"], str)
    assert packed.json()["usage"] == first.json()["usage"]


@pytest.mark.parametrize(
    ("model", "given", "code", "param"),
    [
        ("talker", "hi", "unsupported_parameter", "model"),
        ("both", "", "invalid_value", "input"),
        ("both", [], "invalid_value", "input"),
        ("both", ["a", 1], "invalid_type", "input"),
        ("both", [10**6], "invalid_value", "input"),
        ("both", "word " * 4000, "context_length_exceeded", "input"),
        ("bert", ["fine", "hello " * 500], "context_length_exceeded", "input"),
        ("nobody", "hi", "model_not_found", "model"),
    ],
)
def test_refusals(client: OpenAI, model: str, given: object, code: str, param: str) -> None:
    """What cannot be embedded is a clear error in OpenAI's shape; nothing is truncated."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=model, input=given)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == (code, param)


def test_an_encoder_does_not_chat(client: OpenAI) -> None:
    """A model that only embeds refuses to chat, and says so."""
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "x"}])


def test_many_inputs(client: OpenAI) -> None:
    """2048 inputs of token ids come back in their order; one more is refused."""
    ids = [[5 + i % 200, 7, 9] for i in range(2048)]
    answer = client.embeddings.create(model="both", input=ids)
    assert [entry.index for entry in answer.data] == list(range(2048))
    assert answer.usage.prompt_tokens == 3 * 2048
    assert answer.data[0].embedding == answer.data[200].embedding
    assert answer.data[0].embedding != answer.data[1].embedding
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="both", input=[*ids, [5]])


def test_metrics_and_cards(embedding: Serving, client: OpenAI) -> None:
    """Requests count under `endpoint="embeddings"`; the model card lists the ability."""
    client.embeddings.create(model="both", input="count me")
    with embedding.client() as http:
        lines = http.get("/metrics").text.splitlines()
        card = http.get("/v1/models/both").json()
        talker = http.get("/v1/models/talker").json()
    counted = [
        line
        for line in lines
        if line.startswith('tandem_requests_total{endpoint="embeddings",model="both"')
        and 'outcome="ok"' in line
    ]
    assert counted
    assert any(x.startswith('tandem_engine_embedded_texts_total{upstream="both"}') for x in lines)
    assert "embeddings" in card["features"]
    assert "embeddings" not in talker["features"]
