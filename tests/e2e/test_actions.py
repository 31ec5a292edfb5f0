"""What the learned policy chooses among besides local and cloud, served: a cascade, a race."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, Script, chunk, data, finish

CASCADE = """
upstreams:
  near: {{kind: llama_cpp, model: "bundled:draft", zone: machine, slots: 4, speculate: off}}
  far:
    {{kind: openai, base_url: "{url}", model: b, profile: generic, price: {{input: 5, output: 9}}}}
  thrifty: {{kind: cascade, draft: near, strong: far, look: 4, escalate_share: 0.3}}
models:
  mine: {{candidates: [near, thrifty, far], policy: [rules, learned], cloud_share: 0.3}}
router: {{unsure: 0.15}}
cache: {{exact: off}}
"""
HARD = "Prove that there are infinitely many primes $p$ with $p \\equiv 3 \\pmod 4$; number {}."
EASY = "What is the name of animal {} in the story?\nA. cat\nB. dog\nC. cow\nD. hen"
ASKED = 160

RACE = """
upstreams:
  near: {{kind: openai, zone: machine, base_url: "{near}", model: a, profile: generic}}
  far: {{kind: openai, base_url: "{far}", model: b, profile: generic}}
  quick: {{kind: race, of: [near, far], after: 0.05}}
models:
  autocomplete: {{candidates: [quick, near], policy: [rules, learned, static]}}
cache: {{exact: off}}
"""


async def says(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk("far"))
    await conversation.chunk(finish())
    await conversation.chunk(DONE)
    await conversation.end()


async def completes(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(data({"choices": [{"index": 0, "text": "return 1"}]}))
    await conversation.chunk(data({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}))
    await conversation.chunk(DONE)
    await conversation.end()


def slow_once() -> Script:
    """Of those who ask for an answer, the first waits until it hangs up."""
    asked = 0

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        asked += conversation.request.method == "POST"
        if asked == 1 and conversation.request.method == "POST":
            await conversation.stream_head()
            await conversation.hang()
        else:
            await completes(conversation)

    return script


def answers(upstream: FakeUpstream) -> int:
    """How many it was asked for; looks at its health do not count."""
    return sum(each.method == "POST" for each in upstream.requests)


async def ask(at: Running, prompt: str) -> Any:
    body = {
        "model": "mine",
        "stream": True,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": prompt}],
    }
    answer = await at.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    record = await at.http.get(f"/v1/requests/{answer.headers['x-request-id']}")
    return record.json()


def test_the_unsure_get_a_draft_first_and_only_what_went_counts() -> None:
    """Near the cut a cascade goes first; its drafts that were kept count as local, those handed on
    as sent, so the share that the loop knows is that of the requests which reached the cloud."""
    pytest.importorskip("llama_cpp")

    async def story() -> None:
        async with FakeUpstream(says) as far, running(CASCADE.format(url=far.base_url)) as at:
            seen = [await ask(at, (HARD if n % 2 else EASY).format(n)) for n in range(ASKED)]
            drafted = [each for each in seen if each["upstream"] == "thrifty"]
            escalated = [each for each in drafted if each["cascade"]["escalated"]]
            direct = sum(each["upstream"] == "far" for each in seen)
            assert 0 < len(escalated) < len(drafted) and direct > 0
            assert answers(far) == direct + len(escalated)
            state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert state["cloud_share_lately"] == pytest.approx(answers(far) / ASKED)
            assert 0.2 < state["cloud_share_lately"] < 0.4

            body = {"model": "mine", "messages": [{"role": "user", "content": HARD.format(0)}]}
            told = (await at.http.post("/v1/route/explain", json=body)).json()
            worths = {each["upstream"]: each["worth"] for each in told["candidates"]}
            assert set(worths) == {"near", "thrifty", "far"}
            for said in worths.values():
                costs = said["price"] + said["latency"] + said["energy"]
                assert said["utility"] == pytest.approx(said["quality"] - costs)
            assert worths["thrifty"]["usd"] < worths["far"]["usd"]

    asyncio.run(story())


def test_an_editor_gets_who_begins_first() -> None:
    """A race is a candidate for completions; where it may not go, one of its own still serves."""
    body = {"model": "autocomplete", "prompt": "def one():\n    ", "stream": True, "max_tokens": 8}

    async def story() -> None:
        async with (
            FakeUpstream(slow_once()) as near,
            FakeUpstream(completes) as far,
            running(RACE.format(near=near.base_url, far=far.base_url)) as at,
        ):
            answer = await at.http.post("/v1/completions", json=body)
            assert answer.headers["x-tandem-route"] == "quick" and "return 1" in answer.text
            url = f"/v1/requests/{answer.headers['x-request-id']}"
            record = (await at.http.get(url)).json()
            assert ("near", "cancelled") in [
                (each["upstream"], each["result"]) for each in record["attempts"]
            ]
            private = {"x-tandem-zone": "machine"}
            answer = await at.http.post("/v1/completions", json=body, headers=private)
            assert answer.headers["x-tandem-route"] == "near" and "return 1" in answer.text
            assert (answers(near), answers(far)) == (2, 1)

    asyncio.run(story())
