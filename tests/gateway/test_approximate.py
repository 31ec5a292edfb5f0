"""Approximate answers on the running gateway: named wherever they are seen, and refusable."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.config import ConfigError, loads
from tests.fakes.running import Running, running
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    answer,
    chunk,
    finish,
    sse,
    usage,
)

CONFIG = """
upstreams:
  near: {{kind: openai, zone: machine, base_url: {near}, model: small, tier: local}}
  far:
    kind: openai
    profile: openai
    zone: organisation
    base_url: {far}
    model: big
    price: {{input: 1, output: 10}}
  checked: {{kind: review, draft: near, target: far}}
models:
  mixed: {{candidates: [checked, far]}}
rules:
  - {{name: books, when: {{header.x-team: {{eq: books}}}}, exact: true}}
cache: {{exact: {{memory: 1MiB}}}}
"""


async def reviewer(conversation: Conversation) -> None:
    """Accepts every draft; asked plainly, it says what it thinks."""
    body = conversation.request.json
    text = body["messages"][-1]["content"]
    found = re.search(r"BEGIN (\w+)\n", text)
    said = f"{found[1]} ACCEPT" if found else "its own words"
    if body.get("stream"):
        await sse(chunk(said), finish(), usage(50, 3), DONE)(conversation)
    else:
        await answer(said)(conversation)


drafter = sse(chunk("a draft"), finish(), usage(5, 2), DONE)


@asynccontextmanager
async def gateway() -> AsyncIterator[Running]:
    async with FakeUpstream(drafter) as near, FakeUpstream(reviewer) as far:
        config = CONFIG.format(near=near.base_url, far=far.base_url)
        async with running(config) as front:
            yield front


async def ask(
    front: Running, model: str, headers: dict[str, str] | None = None, **body: Any
) -> Any:
    messages = [{"role": "user", "content": "hi"}]
    sent = {"model": model, "messages": messages, "temperature": 0, **body}
    return await front.http.post("/v1/chat/completions", json=sent, headers=headers)


async def record(front: Running, response: httpx.Response) -> dict[str, Any]:
    found = await front.http.get(f"/v1/requests/{response.headers['x-request-id']}")
    return dict(found.json())


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


@pytest.mark.parametrize("stream", [True, False])
def test_headers_record_and_metrics_name_it(stream: bool) -> None:
    """An accepted draft is an approximate answer, and everybody is told."""

    async def story() -> None:
        async with gateway() as front:
            fresh = {"cache-control": "no-store"}
            found = await ask(front, "checked", fresh, stream=stream)
            assert "a draft" in found.text
            assert found.headers["x-tandem-spec"].startswith("approximate;review;accept")
            kept = await record(front, found)
            assert kept["approximate"] is True
            assert kept["speculation"]["strategy"] == "approximate;review;accept"
            assert kept["cost_usd"] == pytest.approx((50 * 1 + 3 * 10) / 1e6)
            assert kept["usage"]["prompt_tokens"] == 55
            metrics = (await front.http.get("/metrics")).text
            assert 'tandem_approximate_answers_total{upstream="checked"} 1.0' in metrics
            models = (await front.http.get("/v1/models")).json()["data"]
            by_name = {entry["id"]: entry["approximate"] for entry in models}
            assert by_name["checked"]
            assert by_name["mixed"]
            assert not by_name["far"]

    run(story())


def test_a_kept_one_is_still_named() -> None:
    """From the cache it is no more exact than it was."""

    async def story() -> None:
        async with gateway() as front:
            await ask(front, "checked")
            again = await ask(front, "checked")
            assert again.headers["x-tandem-cache"] == "hit"
            assert again.headers["x-tandem-spec"].startswith("approximate")
            assert (await record(front, again))["approximate"] is True

    run(story())


@pytest.mark.parametrize("demand", [{"x-tandem-exact": "true"}, {"x-team": "books"}])
def test_exact_may_be_demanded(demand: dict[str, str]) -> None:
    """By a request or by a rule: such candidates are gone before anything is routed or cached."""

    async def story() -> None:
        async with gateway() as front:
            await ask(front, "mixed")
            exact = await ask(front, "mixed", demand)
            assert "its own words" in exact.text
            assert exact.headers["x-tandem-route"] == "far"
            assert (await record(front, exact))["approximate"] is False
            pinned = await ask(front, "checked", demand)
            assert pinned.status_code == 400
            assert pinned.json()["error"]["param"] == "x-tandem-exact"
            assert pinned.json()["error"]["code"] == "unsupported_parameter"

    run(story())


def test_a_demand_nobody_can_read_is_an_error() -> None:
    """A wish is never guessed at."""

    async def story() -> None:
        async with gateway() as front:
            unclear = await ask(front, "far", {"x-tandem-exact": "perhaps"})
            assert unclear.status_code == 400
            assert unclear.json()["error"]["param"] == "x-tandem-exact"

    run(story())


def test_no_alias_has_one_by_itself() -> None:
    """The names that exist without being configured stay exact."""
    config = loads(CONFIG.format(near="http://near.test/v1", far="http://far.test/v1"), env={})
    assert config.aliases["mixed"].candidates == ("checked", "far")
    default = [a.candidates for name, a in config.aliases.items() if name != "mixed"]
    assert default
    assert all("checked" not in candidates for candidates in default)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{kind: review, draft: near}", "target is required"),
        ("{kind: review, draft: near, target: fra}", "did you mean 'far'?"),
        ("{kind: review, draft: near, target: far, draft_fro: 2s}", "did you mean 'draft_for'?"),
        ("{kind: review, draft: near, target: far, draft_for: soon}", "a duration is"),
        ("{kind: reveiw, draft: near, target: far}", "did you mean 'review'?"),
        ("{kind: speculative, draft: near, target: far, strategy: one-shot}", "'one_shot'"),
        ("{kind: speculative, draft: near, target: far, stratgy: auto}", "mean 'strategy'?"),
        ("{kind: speculative, draft: near, target: near}", "nothing is known of 'near'"),
        ("{kind: speculative, draft: near, target: far, strategy: prefix_fanout}", "llama_cpp"),
    ],
)
def test_mistakes_are_told_with_their_line(entry: str, says: str) -> None:
    """A wrong word in the configuration is named, with where it stands."""
    text = CONFIG.format(near="http://near.test/v1", far="http://far.test/v1")
    text = text.replace("{kind: review, draft: near, target: far}", entry)
    with pytest.raises(ConfigError) as caught:
        loads(text, env={})
    assert says in str(caught.value)
    assert re.search(r"\b11\b", str(caught.value))


def test_a_rule_says_exact_or_does_not() -> None:
    """`exact: false` would widen, and nothing widens."""
    text = CONFIG.format(near="http://near.test/v1", far="http://far.test/v1")
    with pytest.raises(ConfigError, match="exact is true, or not said"):
        loads(text.replace("exact: true", "exact: false"), env={})
