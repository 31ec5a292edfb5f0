"""Rows 9, 10 and 11 with somebody to go on, and without: an SDK behind a gateway, on real sockets.

Two servers of one model; the first dies in the middle of each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.app import Gateway
from gateway.config import loads
from tests.fakes.serving import serving
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    Script,
    chunk,
    data,
    finish,
    reply,
    role,
    sse,
    usage,
)

CONFIG = """
server: {strict_parameters: false}
upstreams:
  one:   {kind: vllm, base_url: "%s", model: m, timeouts: {idle: 0.3}}
  two:   {kind: vllm, base_url: "%s", model: m}
  other: {kind: vllm, base_url: "%s", model: another}
  whole: {kind: continuation, of: [one, two]}
  mixed: {kind: continuation, of: [one, other]}
models:
  auto: {candidates: [one, two], balance: off}
"""
BEGINNING = (role(), chunk("Grüße"), chunk(" aus "))
REST = (role(), chunk(" der"), chunk(" Ferne 🦆"), finish(), usage(9, 4), DONE)
TEXT = "Grüße aus der Ferne 🦆"

Death = Callable[[Conversation], Coroutine[Any, Any, None]]


async def reset(conversation: Conversation) -> None:
    """Row 9: RST."""
    conversation.reset()


async def cut_chunk(conversation: Conversation) -> None:
    """Row 10: a chunk that is shorter than it says, in the middle of a character."""
    event = chunk("🦆")
    await conversation.raw(b"%x\r\n" % len(event) + event[: event.index(b"\\ud83e") + 3])
    conversation.writer.close()


async def stall(conversation: Conversation) -> None:
    """Nothing more, on an open connection."""
    await conversation.hang()


async def error_event(conversation: Conversation) -> None:
    """An error of the server's own, in the stream."""
    await conversation.chunk(data({"error": {"message": "worker died", "code": 500}}))
    await conversation.end()


def dying(death: Death) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for frame in BEGINNING:
            await conversation.chunk(frame)
        await death(conversation)

    return script


async def ends_silently(conversation: Conversation) -> None:
    """Row 11: no length, no chunks, and an end that looks like one."""
    await conversation.head(content_type="text/event-stream", connection="close")
    for frame in BEGINNING:
        await conversation.raw(frame)


DEATHS = {
    "row_09_reset": dying(reset),
    "row_10_cut_chunk": dying(cut_chunk),
    "row_11_silent_end": ends_silently,
    "row_08_stall": dying(stall),
    "error_event": dying(error_event),
}


def server(answer: Script) -> FakeUpstream:
    """One that answers questions about itself, and requests by `answer`."""
    models = reply(200, {"object": "list", "data": [{"id": "m"}]})

    async def script(conversation: Conversation) -> None:
        await (models if conversation.request.method == "GET" else answer)(conversation)

    return FakeUpstream(script)


@dataclass
class Running:
    client: AsyncOpenAI
    http: httpx.AsyncClient
    second: FakeUpstream

    async def record(self, id: str) -> dict[str, Any]:
        found = await self.http.get(f"/v1/requests/{id}")
        record: dict[str, Any] = found.json()
        return record


@asynccontextmanager
async def running(death: str) -> AsyncIterator[Running]:
    async with server(DEATHS[death]) as one, server(sse(*REST)) as two:
        gateway = Gateway(loads(CONFIG % (one.base_url, two.base_url, two.base_url), env={}))
        await gateway.start()
        try:
            async with (
                serving(gateway.app) as address,
                AsyncOpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
                httpx.AsyncClient(base_url=address, trust_env=False) as http,
            ):
                yield Running(client, http, two)
        finally:
            await gateway.aclose()


async def ask(client: AsyncOpenAI, model: str, **more: Any) -> Any:
    return await client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "hi"}], stream=True, **more
    )


def posts(upstream: FakeUpstream) -> list[Any]:
    return [request.json for request in upstream.requests if request.method == "POST"]


@pytest.mark.parametrize("death", DEATHS)
def test_rows_09_10_11_with_continuation(death: str) -> None:
    """The SDK reads one whole answer: one id, one role, one finish, usage of both."""

    async def story() -> None:
        async with running(death) as gateway:
            raw = await ask(gateway.client, "whole", stream_options={"include_usage": True})
            chunks = [chunk async for chunk in raw.parse()]
            choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
            assert "".join(choice.delta.content or "" for choice in choices) == TEXT
            assert len({chunk.id for chunk in chunks}) == 1
            assert [c.delta.role for c in choices if c.delta.role] == ["assistant"]
            assert [c.finish_reason for c in choices if c.finish_reason] == ["stop"]
            assert chunks[-1].usage.prompt_tokens > 9
            assert chunks[-1].usage.completion_tokens > 4
            (asked,) = posts(gateway.second)
            assert asked["messages"][-1] == {"role": "assistant", "content": "Grüße aus"}
            assert asked["continue_final_message"] is True
            record = await gateway.record(raw.headers["x-request-id"])
            assert (record["outcome"], record["continued"]) == ("ok", 1)
            tried = [(each["upstream"], each["result"]) for each in record["attempts"]]
            assert tried == [("whole", "ok"), ("one", "cut")]

    asyncio.run(story())


@pytest.mark.parametrize("model", ["auto", "mixed"])
@pytest.mark.parametrize("death", ["row_09_reset", "row_10_cut_chunk", "row_11_silent_end"])
def test_rows_09_10_11_without_continuation(death: str, model: str) -> None:
    """Without, or with another model only, the text is kept and one typed error ends it."""

    async def story() -> None:
        async with running(death) as gateway:
            raw = await ask(gateway.client, model)
            said = ""
            with pytest.raises(openai.APIError) as failed:
                async for chunk in raw.parse():
                    said += chunk.choices[0].delta.content or ""
            assert said == "Grüße aus "
            assert failed.value.code == "upstream_broken"
            assert posts(gateway.second) == []
            record = await gateway.record(raw.headers["x-request-id"])
            assert (record["outcome"], record["continued"]) == ("truncated", 0)

    asyncio.run(story())


def test_what_a_reader_of_bytes_sees() -> None:
    """No frame of either server's, one [DONE], and the trace says that it was gone on with."""

    async def story() -> None:
        async with running("row_09_reset") as gateway:
            body = {
                "model": "whole",
                "stream": True,
                "messages": [{"role": "user", "content": "x"}],
            }
            answer = await gateway.http.post(
                "/v1/chat/completions", json=body, headers={"x-tandem-trace": "1"}
            )
            assert answer.text.count("data: [DONE]") == 1
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '"continued":1' in answer.text
            assert '"error"' not in answer.text.replace('"error":null', "")
            assert answer.text.count('"role":"assistant"') == 1
            assert "usage" not in answer.text.partition(": tandem")[0]

    asyncio.run(story())
