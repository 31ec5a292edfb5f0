"""A local queue too long for a request's deadline is passed, and taken again when it has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

YAML = """
upstreams:
  near: {{kind: llama_cpp, model: "bundled:draft", zone: machine, slots: 1, speculate: off}}
  far: {{kind: openai, base_url: "{url}", model: b, profile: generic}}
models:
  mine: {{candidates: [near, far], policy: [static]}}
cache: {{exact: off}}
"""
LONG = 400


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("llama_cpp")


async def says(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk("far"))
    await conversation.chunk(finish())
    await conversation.chunk(DONE)
    await conversation.end()


async def ask(at: Running, tokens: int, **headers: str) -> tuple[int, dict[str, str]]:
    body: dict[str, Any] = {
        "model": "mine",
        "max_tokens": tokens,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
    }
    answer = await at.http.post("/v1/chat/completions", json=body, headers=headers)
    return answer.status_code, dict(answer.headers)


def test_there_and_back_again() -> None:
    """With a queue before it a request in a hurry goes to the cloud, saying why; one without a
    deadline waits, one that must stay here never leaves; without the queue all are local."""

    async def story() -> None:
        async with FakeUpstream(says) as far, running(YAML.format(url=far.base_url)) as at:
            hurry = {"x-request-timeout": "0.3"}
            status, headers = await ask(at, LONG)
            assert (status, headers["x-tandem-route"]) == (200, "near")
            # Nobody is there: also a request in a hurry begins at once.
            _, headers = await ask(at, 1, **hurry)
            assert headers["x-tandem-route"] == "near"

            queue = [asyncio.create_task(ask(at, LONG)) for _ in range(6)]
            while at.gateway.fleet.in_flight()["near"] < len(queue):
                await asyncio.sleep(0.01)
            status, headers = await ask(at, 1, **hurry)
            assert (status, headers["x-tandem-route"]) == (200, "far")
            assert headers["x-tandem-reason"] == "capacity"
            asked = len(far.requests)
            status, headers = await ask(at, 1, **hurry, **{"x-tandem-zone": "machine"})
            assert status in (200, 503, 504) and headers.get("x-tandem-route", "near") == "near"
            assert len(far.requests) == asked
            told = await at.http.post(
                "/v1/route/explain",
                json={"model": "mine", "messages": [{"role": "user", "content": "?"}]},
            )
            (near,) = [e for e in told.json()["candidates"] if e["upstream"] == "near"]
            assert near["wait_ms"] > 300

            ends = await asyncio.gather(*queue)
            assert {headers["x-tandem-route"] for _, headers in ends} == {"near"}
            _, headers = await ask(at, 1, **hurry)
            assert headers["x-tandem-route"] == "near"

    asyncio.run(story())
