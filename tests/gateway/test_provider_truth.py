"""A configuration file, a gateway, and providers behind it: what the answers say of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.app import Gateway
from gateway.config import loads
from tests.fakes.provider_wires import WIRES, sse

CONFIG = """
server: {strict_parameters: %s}
upstreams:
  groq:   {kind: groq, model: llama-3.1-8b-instant, api_key: "${KEY}"}
  router: {kind: openrouter, model: some/model, api_key: "${KEY}"}
  box:    {kind: vllm, base_url: "http://box.test", model: m, price: {input: 1, output: 10}}
  shelf:  {kind: llama-server, base_url: "http://shelf.test", model: m}
models:
  auto: {candidates: [box, shelf]}
cache: {exact: {memory: 1MiB}}
"""
HOSTS = {
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
    "box.test": "vllm",
    "shelf.test": "llama-server",
}
BY_PROFILE = {wire.profile: wire for wire in WIRES}


def provider(request: httpx.Request) -> httpx.Response:
    wire = BY_PROFILE[HOSTS[request.url.host]]
    if request.method == "GET":
        return httpx.Response(200, json={"object": "list", "data": [{"id": "m"}]})
    if json.loads(request.content).get("stream"):
        headers = {"content-type": "text/event-stream", **wire.headers}
        return httpx.Response(200, headers=headers, content=sse(wire.stream))
    return httpx.Response(200, json=wire.whole, headers=dict(wire.headers))


def silent(request: httpx.Request) -> httpx.Response:
    """A provider that reports no usage at all."""
    answer = provider(request)
    if request.method == "POST":
        body = {name: value for name, value in answer.json().items() if name != "usage"}
        return httpx.Response(200, json=body)
    return answer


Ask = Callable[..., Awaitable[httpx.Response]]


@asynccontextmanager
async def asking(
    handler: Callable[[httpx.Request], httpx.Response] = provider, *, strict: bool = False
) -> AsyncIterator[tuple[Ask, httpx.AsyncClient]]:
    config = loads(CONFIG % str(strict).lower(), env={"KEY": "k"})
    gateway = Gateway(config, transport=lambda: httpx.MockTransport(handler))
    await gateway.start()
    transport = httpx.ASGITransport(gateway.app)
    http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def ask(model: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "What is 2+2?"}]
        body = {"model": model, "messages": messages, "temperature": 0, **body}
        return await http.post("/v1/chat/completions", json=body, headers=headers)

    try:
        yield ask, http
    finally:
        await http.aclose()
        await gateway.aclose()


async def record_of(http: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = (
        await http.get(f"/v1/requests/{answer.headers['x-request-id']}")
    ).json()
    return found


def test_ignored_fields_are_announced_from_the_cache_too() -> None:
    """A field that vLLM drops is in `x-tandem-ignored`, also when the answer is a kept one."""

    async def story() -> None:
        async with asking() as (ask, http):
            first = await ask("box", prediction={"type": "content", "content": "5"}, store=True)
            assert first.status_code == 200
            assert first.headers["x-tandem-ignored"] == "prediction"
            assert (await record_of(http, first))["ignored"] == ["prediction"]
            assert "x-tandem-ignored" not in (await ask("box", min_tokens=1)).headers
            one = await ask("box", verbosity="low")
            again = await ask("box", verbosity="low")
            assert (one.headers["x-tandem-tier"], again.headers["x-tandem-tier"]) == (
                "cloud",
                "cache",
            )
            assert one.headers["x-tandem-ignored"] == "verbosity"
            assert again.headers["x-tandem-ignored"] == "verbosity"

    asyncio.run(story())


def test_strict_goes_elsewhere_or_refuses() -> None:
    """In strict mode a request goes to who honours it, or gets a 400 that names the field."""

    async def story() -> None:
        async with asking() as (ask, _):
            strictly = {"x-tandem-strict-parameters": "true"}
            taken = await ask("auto", strictly, mirostat=2)
            assert taken.headers["x-tandem-route"] == "shelf"
            assert "x-tandem-ignored" not in taken.headers
            refused = await ask("box", strictly, mirostat=2)
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error["param"], error["type"]) == ("mirostat", "invalid_request_error")
            assert "box ignores `mirostat`" in error["message"]
        async with asking(strict=True) as (ask, _):
            assert (await ask("box", mirostat=2)).status_code == 400
            lenient = await ask("box", {"x-tandem-strict-parameters": "false"}, mirostat=2)
            assert lenient.status_code == 200

    asyncio.run(story())


def test_costs_come_from_real_usage() -> None:
    """Own price with cached tokens, list price, the provider's own word: each as it should be."""

    async def story() -> None:
        async with asking() as (ask, http):
            box = await ask("box")
            assert box.headers["x-tandem-cost-usd"] == "0.00007"  # 20 in, 5 out, no cached price
            groq = await record_of(http, await ask("groq", stream=True))
            assert groq["cost_usd"] == (20 * 0.05 + 5 * 0.08) / 1e6
            assert groq["usage"]["cached_tokens"] == 8
            assert groq["usage"]["reasoning_tokens"] == 2
            routed = await ask("router")
            assert routed.headers["x-tandem-cost-usd"] == "0.00095"
            shelf = await ask("shelf")
            assert "x-tandem-cost-usd" not in shelf.headers
            assert (await record_of(http, shelf))["cost_estimated"] is None
            metrics = (await http.get("/metrics")).text
            assert 'tandem_cost_unknown_total{upstream="shelf"} 1.0' in metrics
            assert (
                'tandem_upstream_ratelimit_remaining_ratio{kind="tokens",upstream="groq"} 0.5'
                in (
                    metrics.replace(
                        '{upstream="groq",kind="tokens"}', '{kind="tokens",upstream="groq"}'
                    )
                )
            )
            assert (
                'tandem_tokens_total{model="groq",tier="cloud",type="cached_input"} 8.0' in metrics
            )
            assert 'tandem_tokens_total{model="groq",tier="cloud",type="reasoning"} 2.0' in metrics

    asyncio.run(story())


def test_missing_usage_is_estimated_and_marked() -> None:
    """A provider without usage leaves an estimate, which the record calls one, cost included."""

    async def story() -> None:
        async with asking(silent) as (ask, http):
            record = await record_of(http, await ask("box"))
            assert record["usage"]["estimated"] is True
            assert record["cost_estimated"] is True
            assert record["cost_usd"] > 0

    asyncio.run(story())
