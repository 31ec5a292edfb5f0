"""Two real gateways with the bundled target behind one alias of a third, and conversations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.bench.engine import cpu_seconds
from tests.fakes.running import Running, running

BOX = """
upstreams:
  big: {kind: llama_cpp, zone: machine, model: "bundled:target", context: 512, slots: 8}
cache: {exact: off}
"""
FRONT = """
upstreams:
  one: {{kind: vllm, zone: machine, base_url: "http://127.0.0.1:{one}/v1", model: big}}
  two: {{kind: vllm, zone: machine, base_url: "http://127.0.0.1:{two}/v1", model: big}}
models:
  shared: {{candidates: [one, two]}}
cache: {{exact: off}}
"""
WORDS = "river stone open quiet seven garden lamp under copper window north paper salt".split()


@dataclass
class Told:
    """What some conversations came to. `stayed` of `moves` turns went where the last one was."""

    prompt: int = 0
    cached: int = 0
    moves: int = 0
    stayed: int = 0


@dataclass
class TwoBoxes:
    front: Running
    boxes: tuple[Running, Running]

    def worker_seconds(self) -> float:
        """CPU seconds of both engines' workers."""
        total = 0.0
        for box in self.boxes:
            pid = box.gateway.backends["big"].engine.pid  # type: ignore[attr-defined]
            total += cpu_seconds(pid) or 0.0
        return total

    async def converse(self, seed: int, turns: int, told: Told) -> None:
        """One conversation; each turn sends all before it again."""
        rng = random.Random(seed)
        messages: list[dict[str, str]] = []
        before = ""
        for _ in range(turns):
            said = " ".join(rng.choices(WORDS, k=45))
            messages.append({"role": "user", "content": said})
            body = {"model": "shared", "messages": messages, "max_tokens": 1, "temperature": 0}
            answer = await self.front.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            usage, route = answer.json()["usage"], answer.headers["x-tandem-route"]
            told.prompt += usage["prompt_tokens"]
            told.cached += usage["prompt_tokens_details"]["cached_tokens"]
            told.moves += bool(before)
            told.stayed += route == before
            before = route
            messages.append({"role": "assistant", "content": "Noted."})

    async def crowd(self, seed: int, conversations: int = 12, turns: int = 4) -> Told:
        """Conversations, three at a time."""
        told, gate = Told(), asyncio.Semaphore(3)

        async def one(number: int) -> None:
            async with gate:
                await self.converse(seed * 1000 + number, turns, told)

        await asyncio.gather(*map(one, range(conversations)))
        return told


@asynccontextmanager
async def two_boxes() -> AsyncIterator[TwoBoxes]:
    async with running(BOX) as one, running(BOX) as two:
        for box in (one, two):
            while not (await box.http.get("/readyz")).is_success:
                await asyncio.sleep(0.05)
        async with running(FRONT.format(one=one.port, two=two.port)) as front:
            yield TwoBoxes(front, (one, two))
