"""A whole gateway over HTTP before upstreams that misbehave: what a client sees of their faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.app import Gateway
from gateway.config import loads
from gateway.record import JsonLog
from tests.fakes.faults import ok
from tests.fakes.serving import serving
from tests.fakes.upstream import FakeUpstream, Script

QUICK = {"connect": 0.3, "first_content": 0.3, "idle": 0.3, "document": 0.3}
"""For a fault that is silence: what is asserted is that it ends, not when."""
PATIENT = {"connect": 5.0, "first_content": 30.0, "idle": 30.0, "document": 30.0}
KEY = "sk-not-to-be-told"
CHAT = "/v1/chat/completions"


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """A test's story, which has a minute."""
    asyncio.run(asyncio.wait_for(coroutine, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a client got. Of a stream `text` is what was said, `error` the typed event that ended
    it, and `done` whether a [DONE] did.
    """

    status: int
    headers: httpx.Headers
    raw: bytes
    text: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    done: bool = False


@dataclass(slots=True)
class Front:
    """A running gateway and a client of it."""

    gateway: Gateway
    http: httpx.AsyncClient

    async def ask(
        self,
        model: str = "auto",
        *,
        stream: bool = True,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Seen:
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": model, "messages": messages, "stream": stream, **body}
        return seen(await self.http.post(CHAT, json=body, headers=headers))

    async def record(self, answer: Seen) -> dict[str, Any]:
        """The record that a request left, when it has."""
        path = f"/v1/requests/{answer.headers['x-request-id']}"
        while (found := await self.http.get(path)).status_code != 200:
            await asyncio.sleep(0.01)
        return dict(found.json())

    async def attempts(self, answer: Seen) -> list[tuple[str, str]]:
        """Who was asked, and what came of it."""
        record = await self.record(answer)
        return [(each["upstream"], each["result"]) for each in record["attempts"]]

    def metric(self, line: str) -> float:
        """A sample of the metrics, 0 if there is none yet."""
        body, _ = self.gateway.metrics.render()
        found = (each for each in body.decode().splitlines() if each.startswith(line))
        return sum(float(each.rpartition(" ")[2]) for each in found)

    async def at_rest(self) -> None:
        """Wait until nothing is in flight anywhere: no permit, no attempt."""
        while self.gateway.admission.inside or any(self.gateway.fleet.in_flight().values()):
            await asyncio.sleep(0.01)


def seen(answer: httpx.Response) -> Seen:
    common = {"status": answer.status_code, "headers": answer.headers, "raw": answer.content}
    if not answer.headers["content-type"].startswith("text/event-stream"):
        document = answer.json()
        if "error" in document:
            return Seen(**common, error=document["error"])
        return Seen(**common, text=document["choices"][0]["message"]["content"])
    text, error, done = "", {}, False
    for line in answer.text.splitlines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        document = json.loads(line.removeprefix("data: "))
        error = document.get("error", error)
        for choice in document.get("choices", ()):
            text += choice["delta"].get("content") or ""
    return Seen(**common, text=text, error=error, done=done)


@asynccontextmanager
async def fronting(
    upstreams: Mapping[str, str],
    *,
    timeouts: Mapping[str, float] = PATIENT,
    log: JsonLog | None = None,
    cache: bool = False,
    zones: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Front]:
    """A gateway whose `auto` tries the upstreams (name → base URL) in order.

    `zones` are those of some of them, `more` are further entries that `auto` does not have,
    `models` further aliases;
    `options` are added to each upstream's config entry.
    """
    # A cloud's profile: judged by its answers alone, so that no probe is among the requests.
    entry = {
        "kind": "openai",
        "profile": "openai",
        "api_key": "${KEY}",
        "timeouts": dict(timeouts),
    }
    config = {
        "upstreams": {
            name: {**entry, "base_url": url, "model": f"{name}-model", **options}
            | ({"zone": zones[name]} if zones and name in zones else {})
            for name, url in upstreams.items()
        }
        | dict(more or {}),
        "privacy": dict(privacy or {}),
        "models": {"auto": {"candidates": list(upstreams)}, **(models or {})},
        "cache": {"exact": {"memory": "1MiB"} if cache else "off"},
    }
    gateway = Gateway(loads(json.dumps(config), env={"KEY": KEY}), log=log)
    await gateway.start()
    try:
        async with (
            serving(gateway.app) as base_url,
            httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False) as http,
        ):
            yield Front(gateway, http)
    finally:
        await gateway.aclose()


@asynccontextmanager
async def misbehaving(
    *scripts: Script, **options: Any
) -> AsyncIterator[tuple[Front, FakeUpstream, FakeUpstream]]:
    """A gateway that asks `bad`, which plays the scripts, before `good`, which is always right."""
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(FakeUpstream(*scripts))
        good = await stack.enter_async_context(FakeUpstream(ok))
        upstreams = {"bad": bad.base_url, "good": good.base_url}
        front = await stack.enter_async_context(fronting(upstreams, **options))
        yield front, bad, good


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something; how long it takes is not what is tested."""
    while not holds():
        await asyncio.sleep(0.01)
