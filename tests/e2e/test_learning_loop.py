"""The whole loop, with real models: traffic, feedback, training, and the artifact in force."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.engine.demo_pair.corpus import collect
from backends.engine.demo_pair.transcripts import extraction
from gateway.__main__ import main
from gateway.config import loads
from router_policies.learned.artifact import load
from tests.fakes.running import Running, running

TARGET = 0.3
YAML = """
upstreams:
  near: {{kind: llama_cpp, model: "bundled:draft", tier: local, zone: machine, slots: 8}}
  far: {{kind: llama_cpp, model: "bundled:target", tier: cloud, zone: public, slots: 8}}
models:
  auto: {{candidates: [near, far], policy: [rules, learned, static]{share}}}
cache: {{exact: off}}
router: {{labels: {{path: "{log}"}}{artifact}}}
"""
ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Question:
    """A request with a short answer, of one of two kinds."""

    kind: str
    path: str
    body: dict[str, Any]

    async def put(self, at: Running, model: str, tokens: int) -> tuple[str, str, str]:
        """(the request's id, its answer, who gave it)"""
        body = {**self.body, "model": model, "max_tokens": tokens, "temperature": 0}
        answer = await at.http.post(self.path, json=body)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        said = choice["text"] if "text" in choice else choice["message"]["content"]
        return answer.headers["x-request-id"], said, answer.headers["x-tandem-route"]


def questions(seed: int) -> Iterator[Question]:
    """Code that goes on, and facts to be read out of a text: by turns, without end."""
    rng, files = Random(seed), collect().held_out
    while True:
        text = rng.choice(files).text
        begin = rng.randrange(max(1, len(text) - 400))
        yield Question("code", "/v1/completions", {"prompt": text[begin : begin + 300]})
        asked, _ = extraction.extraction(rng)
        said = [{"role": "user", "content": asked}]
        yield Question("facts", "/v1/chat/completions", {"messages": said})


async def agreement(at: Running, question: Question, *, rated: bool) -> bool:
    """Whether both models say the same; `rated`: the client tells what that makes of each."""
    (near, one, _), (far, other, _) = await asyncio.gather(
        question.put(at, "near", ANSWER_TOKENS), question.put(at, "far", ANSWER_TOKENS)
    )
    if rated:
        for id, score in ((near, float(one == other)), (far, 1.0)):
            answer = await at.http.post("/v1/feedback", json={"id": id, "score": score})
            assert answer.status_code == 200, answer.text
    return one == other


async def each(work: Iterator[Any], at_once: int = 8) -> list[Any]:
    """The results of coroutines, in order, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(coroutine: Any) -> Any:
        async with gate:
            return await coroutine

    return list(await asyncio.gather(*map(one, work)))


@pytest.mark.slow
def test_what_the_pair_agrees_on_stays_local(tmp_path: Path) -> None:
    """Where draft and target agree is fed back; trained on that log and reloaded into the running
    gateway, the router keeps the cloud's share, and what it keeps here agrees more often than what
    it sends away.
    """
    pytest.importorskip("lightgbm", reason="the router-train extra is not installed")
    log, out = tmp_path / "labels.jsonl", tmp_path / "learnt"
    plain = YAML.format(log=log, share="", artifact="")
    learnt = YAML.format(log=log, share=f", cloud_share: {TARGET}", artifact=f', artifact: "{out}"')

    async def story() -> None:
        async with running(plain) as at:
            asked = questions(1)
            seen = [next(asked) for _ in range(400)]
            await each(agreement(at, question, rated=True) for question in seen)
            train = ["router", "train", "--labels", str(log), "--out", str(out)]
            assert await asyncio.to_thread(main, train) == 0
            assert load(out).manifest["own"]["signals"] == {"feedback": 800}
            await at.gateway.reload(loads(learnt, env={}))

            asked = questions(2)
            fresh = [next(asked) for _ in range(800)]
            routes = [route for _, _, route in await each(q.put(at, "auto", 1) for q in fresh)]
            away = [route == "far" for route in routes]
            assert 0.24 <= sum(away[500:]) / len(away[500:]) <= 0.36
            judged = list(zip(fresh[500:], away[500:], strict=True))
            agrees = await each(agreement(at, question, rated=False) for question, _ in judged)
            kept = [same for same, (_, gone) in zip(agrees, judged, strict=True) if not gone]
            sent = [same for same, (_, gone) in zip(agrees, judged, strict=True) if gone]
            assert sum(kept) / len(kept) > sum(sent) / len(sent) + 0.1

    asyncio.run(story())
