"""Labels from own traffic, from a client's feedback to an artifact that has learnt from it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.__main__ import main
from router_policies.learned.artifact import DEFAULT, load
from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

CANARY = "zanzibar-quokka-5519"
ANSWER_CANARY = "mandolin-heron-8842"
KEY = "tandem-test-key-canary-7731"
YAML = """
upstreams:
  near: {{kind: openai, zone: machine, base_url: "{url}", model: a, profile: generic}}
  far: {{kind: openai, base_url: "{url}", model: b, profile: generic}}
models:
  mine: {{candidates: [near, far]}}
cache: {{exact: off}}
{rest}
"""


async def says(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk(ANSWER_CANARY))
    await conversation.chunk(finish())
    await conversation.chunk(DONE)
    await conversation.end()


async def ask(at: Running, prompt: str, model: str = "mine", **headers: str) -> str:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    answer = await at.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


async def rate(at: Running, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    answer = await at.http.post("/v1/feedback", json=body, headers=headers)
    return answer.status_code, answer.json()


def labels(path: Path, more: str = "") -> str:
    return f'router: {{labels: {{path: "{path}"{more}}}}}'


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys(*secrets: str) -> str:
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in secrets]
    return "keys: [" + ", ".join(f'{{digest: "sha256:{each}"}}' for each in digests) + "]"


def test_nothing_that_was_said_is_in_the_log(tmp_path: Path) -> None:
    """Prompt, answer, key and comment leave no word there; the features and the verdict are."""
    log = tmp_path / "labels.jsonl"
    bearer = {"authorization": f"Bearer {KEY}"}

    async def scenario() -> None:
        rest = f"{labels(log)}\n{keys(KEY)}"
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=rest)) as at,
        ):
            id = await ask(at, f"What is {CANARY}?", **bearer)
            status, _ = await rate(at, {"id": id, "thumb": "down", "comment": CANARY}, **bearer)
            assert status == 200

    asyncio.run(scenario())
    text = log.read_text()
    for secret in (CANARY, ANSWER_CANARY, KEY, "zanzibar", "quokka", "mandolin"):
        assert secret not in text
    request, feedback = lines(log)
    assert len(request["numbers"]) == 41
    assert request["pairs"]
    assert (feedback["kind"], feedback["id"], feedback["score"]) == ("feedback", request["id"], 0)


def test_content_is_kept_only_of_public_requests_and_only_where_asked(tmp_path: Path) -> None:
    """With `content: public` a request that must stay leaves neither its text nor its pairs."""
    log = tmp_path / "labels.jsonl"

    async def scenario() -> None:
        rest = labels(log, ", content: public")
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=rest)) as at,
        ):
            await ask(at, "Where do llamas live, and why?")
            await ask(at, f"What is {CANARY}?", **{"x-tandem-zone": "machine"})

    asyncio.run(scenario())
    open_, closed = lines(log)
    assert open_["prompt"] == "Where do llamas live, and why?"
    assert "prompt" not in closed
    assert "pairs" not in closed
    assert CANARY not in log.read_text()


def test_a_key_rates_its_own_answers_only(tmp_path: Path) -> None:
    """Another key's request is 404, as is one that never was; without the log there is none."""

    async def scenario() -> None:
        rest = f"{labels(tmp_path / 'log')}\n{keys(KEY, 'another')}"
        mine, other = ({"authorization": f"Bearer {each}"} for each in (KEY, "another"))
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=rest)) as at,
        ):
            id = await ask(at, "Well?", **mine)
            assert (await rate(at, {"id": id, "score": 0.5}))[0] == 401
            status, body = await rate(at, {"id": id, "score": 0.5}, **other)
            assert (status, body["error"]["code"]) == (404, "record_not_found")
            assert (await rate(at, {"id": "req_none", "score": 1}, **mine))[0] == 404
            status, body = await rate(at, {"id": id, "score": 0.5}, **mine)
            assert (status, body["score"]) == (200, 0.5)
            document = (await at.http.get("/openapi.json")).json()
            assert "requestBody" in document["paths"]["/v1/feedback"]["post"]
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest="")) as at,
        ):
            status, body = await rate(at, {"id": await ask(at, "Well?"), "score": 1})
            assert (status, body["error"]["code"]) == (404, "feedback_off")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "id"),
        ({"id": "x"}, "score"),
        ({"id": "x", "score": 1.5}, "score"),
        ({"id": "x", "score": True}, "score"),
        ({"id": "x", "score": 1, "thumb": "up"}, "score"),
        ({"id": "x", "thumb": "sideways"}, "thumb"),
        ({"id": "x", "score": 1, "mark": 3}, "mark"),
    ],
)
def test_bad_feedback_is_told_what_is_wrong(
    tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    """400 in OpenAI's shape, naming the field."""

    async def scenario() -> None:
        rest = labels(tmp_path / "log")
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=rest)) as at,
        ):
            status, said = await rate(at, body)
            assert (status, said["error"]["param"]) == (400, param)

    asyncio.run(scenario())


def test_asking_again_is_noted_of_the_answer_before(tmp_path: Path) -> None:
    """The second request with the same words names the first one."""
    log = tmp_path / "log"
    ids: list[str] = []

    async def scenario() -> None:
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=labels(log))) as at,
        ):
            ids.extend([await ask(at, "How do I rename a branch?") for _ in range(2)])

    asyncio.run(scenario())
    (again,) = [line for line in lines(log) if line["kind"] == "again"]
    assert (again["id"], again["how"]) == (ids[0], "regenerate")


def prompts(count: int) -> list[tuple[bool, str]]:
    """(whether the weak model fails at it, a prompt): those with sums in them, half of all."""
    draw = random.Random(7)
    found = []
    for number in range(count):
        things = draw.choice(["apples", "chairs", "letters", "stones"])
        sums = f"{draw.randrange(900)} + {draw.randrange(900)} - {draw.randrange(90)}"
        told = sums if number % 2 else "the green one"
        found.append((bool(number % 2), f"Say what is left of the {things} after {told}, please?"))
    return found


def test_the_router_learns_what_its_users_say(tmp_path: Path) -> None:
    """Feedback says that the weak model fails at a family of prompts: trained on that log, a new
    artifact wants the strong model for that family more than before, and more than for others."""
    pytest.importorskip("lightgbm", reason="the router-train extra is not installed")
    log, out = tmp_path / "labels.jsonl", tmp_path / "learnt"

    async def scenario() -> None:
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=labels(log))) as at,
        ):
            for number, (fails, prompt) in enumerate(prompts(600)):
                strong = number % 4 > 1
                id = await ask(at, prompt, "far" if strong else "near")
                up = strong or not fails
                assert (await rate(at, {"id": id, "thumb": "up" if up else "down"}))[0] == 200

    asyncio.run(scenario())
    assert main(["router", "train", "--labels", str(log), "--out", str(out)]) == 0
    learnt = load(out)
    assert learnt.manifest["own"]["signals"] == {"feedback": 600}
    fresh = [(fails, prompt + " Thanks.") for fails, prompt in prompts(80)]

    def lead(folder: Path) -> float:
        router = load(folder).router
        said = {
            side: [router.assess(p).score for f, p in fresh if f is side] for side in (True, False)
        }
        return float(np.mean(said[True]) - np.mean(said[False]))

    assert lead(out) > lead(DEFAULT) + 0.1


def test_too_little_is_said_clearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests without a signal teach nothing, and training says how many are missing."""
    log = tmp_path / "labels.jsonl"

    async def scenario() -> None:
        async with (
            FakeUpstream(says) as upstream,
            running(YAML.format(url=upstream.base_url, rest=labels(log))) as at,
        ):
            id = await ask(at, "One?")
            await ask(at, "Two, and something else entirely?")
            await rate(at, {"id": id, "thumb": "up"})

    asyncio.run(scenario())
    assert main(["router", "train", "--labels", str(log), "--out", str(tmp_path / "x")]) == 2
    assert "1 labelled prompts (2 requests are logged" in capsys.readouterr().err
