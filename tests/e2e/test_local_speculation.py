"""Drafts inside the engine, from a configuration file to the metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.conftest import local_engine_missing
from tests.fakes.process import Serving, serve

CONFIG = """
upstreams:
  plain: {kind: llama_cpp, zone: machine, model: "bundled:target", speculate: off}
  drafting: {kind: llama_cpp, zone: machine, model: "bundled:target", speculate: ngram}
  paired:
    kind: llama_cpp
    zone: machine
    model: "bundled:target"
    speculate: {draft: "bundled:draft"}
"""
QUESTION: Any = [{"role": "user", "content": "Write a test class. Write a test class."}]

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=str(local_engine_missing())
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    path: Path = tmp_path_factory.mktemp("config") / "tandem.yaml"
    path.write_text(CONFIG)
    with serve("-c", str(path)) as running:
        yield running


@pytest.fixture(scope="module")
def client(own: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{own.base_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def ask(client: OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=80, temperature=0.0, **more
    )


def test_answers_are_the_same_with_drafts_and_without(client: OpenAI) -> None:
    """Lookup and a draft model, configured by name, leave every byte as it was."""
    texts = {ask(client, model).choices[0].message.content for model in ("plain", "drafting")}
    texts.add(ask(client, "paired").choices[0].message.content)
    assert len(texts) == 1


def test_a_prediction_is_used_and_reported(client: OpenAI, own: Serving) -> None:
    """The usage tells how much of the client's prediction held, and the metrics count it."""
    text = ask(client, "plain").choices[0].message.content
    parts = [{"type": "text", "text": text[:40]}, {"type": "text", "text": text[40:]}]
    for content in (text, parts):
        reply = ask(client, "drafting", prediction={"type": "content", "content": content})
        assert reply.choices[0].message.content == text
        details = reply.usage.completion_tokens_details
        assert details.accepted_prediction_tokens > 20
        assert details.rejected_prediction_tokens >= 0
    wrong = ask(client, "drafting", prediction={"type": "content", "content": "zebra " * 40})
    assert wrong.choices[0].message.content == text
    assert wrong.usage.completion_tokens_details.accepted_prediction_tokens < 5


def test_what_is_no_prediction_is_refused(client: OpenAI) -> None:
    """Another shape is a 400 that names the field, and so is an upstream that does not draft."""
    for prediction in ({"type": "text", "content": "x"}, {"type": "content", "content": 7}):
        with pytest.raises(BadRequestError) as caught:
            ask(client, "drafting", prediction=prediction)
        assert str(caught.value.param).startswith("prediction")
    with pytest.raises(BadRequestError) as caught:
        ask(client, "plain", prediction={"type": "content", "content": "x"})
    assert caught.value.param == "prediction"


def test_drafts_are_in_the_metrics(client: OpenAI, own: Serving) -> None:
    """Counters by upstream and source, once the gateway has asked its workers."""
    ask(client, "drafting")
    wanted = 'tandem_engine_spec_draft_tokens_total{source="ngram",upstream="drafting"}'
    with own.client() as http:
        deadline = time.monotonic() + 30
        while True:
            found = re.search(rf"{re.escape(wanted)} ([0-9.]+)", http.get("/metrics").text)
            if found and float(found[1]) > 0:
                return
            assert time.monotonic() < deadline, "no drafts in the metrics"
            time.sleep(0.1)
