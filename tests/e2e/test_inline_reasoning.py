"""Thoughts in the text, through a running gateway configured from YAML."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.app import Gateway
from gateway.config import ConfigError, loads
from tests.fakes.serving import serving
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    Script,
    answer,
    chunk,
    finish,
    role,
    sse,
)

CONFIG = """
upstreams:
  thinker: {kind: openai, profile: openai, base_url: "%s", model: m, reasoning: inline}
  opened:  {kind: openai, profile: openai, base_url: "%s", model: m, reasoning: inline_open}
  asis:    {kind: openai, profile: openai, base_url: "%s", model: m}
  cloud:   {kind: perplexity, base_url: "%s", model: sonar-reasoning}
  plain:   {kind: perplexity, base_url: "%s", model: sonar-reasoning, reasoning: none}
  next:    {kind: openai, profile: vllm, base_url: "%s", model: m}
  whole:   {kind: continuation, of: [thinker, next]}
models:
  auto: {candidates: [thinker, next], balance: off}
"""
PIECES = ("<th", "ink>\nhm", "m</thi", "nk>\n\nfo", "ur")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def thinking(*, dies: bool = False, pieces: tuple[str, ...] = PIECES) -> Script:
    async def script(conversation: Conversation) -> None:
        if not conversation.request.json.get("stream"):
            await answer("".join(pieces))(conversation)
            return
        if not dies:
            await sse(role(), *map(chunk, pieces), finish(), DONE)(conversation)
            return
        await conversation.stream_head()
        for frame in (role(), *map(chunk, pieces)):
            await conversation.chunk(frame)
        conversation.reset()

    return script


@asynccontextmanager
async def gateway(script: Script) -> AsyncIterator[tuple[AsyncOpenAI, FakeUpstream]]:
    """A client of a gateway before `script`; `next` answers "next" and counts who asks."""
    good = sse(role(), chunk("next"), finish(), DONE)
    async with FakeUpstream(script) as first, FakeUpstream(good) as second:
        config = loads(CONFIG % (*[first.base_url] * 5, second.base_url), env={})
        running = Gateway(config)
        await running.start()
        try:
            async with (
                serving(running.app) as url,
                AsyncOpenAI(
                    base_url=f"{url}/v1",
                    api_key="none",
                    max_retries=0,
                    http_client=httpx.AsyncClient(trust_env=False),
                ) as client,
            ):
                yield client, second
        finally:
            await running.aclose()


async def heard(client: AsyncOpenAI, model: str) -> tuple[str, str, str]:
    """Thoughts, text and the error's code of a stream."""
    thoughts, text = "", ""
    request = client.chat.completions.with_raw_response
    raw = await request.create(
        model=model, messages=[{"role": "user", "content": "2+2?"}], stream=True
    )
    try:
        async for each in raw.parse():
            for choice in each.choices:
                thoughts += getattr(choice.delta, "reasoning_content", None) or ""
                text += choice.delta.content or ""
    except Exception as error:  # whatever the SDK makes of an error event
        return thoughts, text, getattr(error, "code", None) or type(error).__name__
    return thoughts, text, ""


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("thinker", ("hmm", "four")),
        ("opened", ("hmm", "four")),
        ("cloud", ("hmm", "four")),
        ("asis", ("", "".join(PIECES))),
        ("plain", ("", "".join(PIECES))),
    ],
)
def test_thoughts_are_where_the_upstreams_entry_says(model: str, expected: tuple[str, str]) -> None:
    """Taken out where entry or profile say that they are in the text; elsewhere untouched."""

    async def story() -> None:
        async with gateway(thinking()) as (client, _):
            assert await heard(client, model) == (*expected, "")
            whole = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "2+2?"}]
            )
            message = whole.choices[0].message
            thoughts = getattr(message, "reasoning_content", None) or ""
            assert (thoughts, message.content) == expected

    run(story())


def test_a_tag_alone_commits_to_nothing() -> None:
    """An upstream that dies before its first thought is replaced, and nothing of it is seen."""

    async def story() -> None:
        async with gateway(thinking(dies=True, pieces=("<think>", "\n"))) as (client, _):
            assert await heard(client, "auto") == ("", "next", "")

    run(story())


@pytest.mark.parametrize("model", ["auto", "whole"])
def test_a_thought_commits(model: str) -> None:
    """After a thought nobody else answers, and nobody goes on with it: one typed error."""

    async def story() -> None:
        async with gateway(thinking(dies=True, pieces=PIECES[:4])) as (client, second):
            thoughts, text, error = await heard(client, model)
            assert (thoughts, text) == ("hmm", "fo")
            assert error == "upstream_broken"
            assert all(each.method == "GET" for each in second.requests)  # it is only looked at

    run(story())


def test_an_unknown_place_is_refused() -> None:
    """A place that is none of ours is an error of the configuration, at its line."""
    with pytest.raises(ConfigError, match="reasoning"):
        loads(
            "upstreams:\n  a: {kind: openai, base_url: 'http://a.test/v1', model: m,"
            " reasoning: somewhere}\n",
            env={},
        )
