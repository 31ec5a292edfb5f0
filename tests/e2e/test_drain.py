"""Row 41: what a gateway that was told to leave does for those inside, and for those who come."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.limits.keys import NOBODY
from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

PATH = "/v1/chat/completions"
CONFIG = """
server: {{drain: {drain}}}
upstreams: {{far: {{kind: openai, base_url: "{url}", api_key: "${{KEY}}", model: m}}}}
"""


def body(*, stream: bool = True) -> dict[str, Any]:
    return {"model": "far", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}


async def begins(conversation: Conversation) -> None:
    """A stream's first words, or nothing of a whole answer; and then nothing more."""
    if not conversation.request.json.get("stream"):
        await conversation.hang()
        return
    await conversation.stream_head()
    await conversation.chunk(chunk("once"))
    await conversation.hang()


class Slow:
    """An answer whose second half waits until it is told to come."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, conversation: Conversation) -> None:
        await conversation.stream_head()
        await conversation.chunk(chunk("once"))
        await self.go_on.wait()
        await conversation.chunk(chunk(" more"))
        await conversation.chunk(finish())
        await conversation.chunk(DONE)
        await conversation.end()


async def record_of(at: Running, answer: httpx.Response) -> Any:
    return at.gateway.records.get(answer.headers["x-request-id"], NOBODY.key_id)


def test_row_41_streams_finish_and_newcomers_are_refused() -> None:
    """While draining, /readyz is 503 at once, a new connection is accepted and its request is
    refused with 503 `draining` and Retry-After; the stream inside ends well, and then all is over.
    """

    async def scenario() -> None:
        slow = Slow()
        async with (
            FakeUpstream(slow) as upstream,
            running(CONFIG.format(drain=30, url=upstream.base_url), KEY="k") as at,
        ):
            async with at.http.stream("POST", PATH, json=body()) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                at.listeners.stop()
                assert (await at.http.get("/readyz")).status_code == 503
                refused = await at.http.post(PATH, json=body())
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "draining"
                assert refused.headers["retry-after"] == "1"
                assert refused.headers["connection"] == "close"
                slow.go_on.set()
                rest = [line async for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            await at.task
            with pytest.raises(httpx.ConnectError):
                await at.http.get("/readyz")

    asyncio.run(scenario())


def test_row_41_the_end_of_the_grace_is_told() -> None:
    """A stream that outlasts the grace ends with one typed error, no finish and no [DONE]; a whole
    answer becomes a 503; both records say so, and both upstream streams are closed.
    """

    async def scenario() -> None:
        async with (
            FakeUpstream(begins) as upstream,
            running(CONFIG.format(drain="200ms", url=upstream.base_url), KEY="k") as at,
        ):
            whole = asyncio.create_task(at.http.post(PATH, json=body(stream=False)))
            async with at.http.stream("POST", PATH, json=body()) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                while len(upstream.requests) < 2:
                    await asyncio.sleep(0.01)
                at.listeners.stop()
                rest = [line async for line in lines if line]
            assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
            assert "[DONE]" not in "".join(rest)
            assert sum("error" in line for line in rest) == 1
            assert "finish_reason" not in "".join(rest).replace('"finish_reason":null', "")
            told = await whole
            assert (told.status_code, told.json()["error"]["code"]) == (503, "draining")
            await at.task
            await upstream.hung_up.wait()
            assert at.gateway.inside == at.gateway.admission.inside == 0
            for each in (answer, told):
                record = await record_of(at, each)
                assert (record.outcome, record.error) == ("truncated", "draining")

    asyncio.run(scenario())


def test_row_42_a_second_signal_waits_for_nobody() -> None:
    """Told twice, the gateway drops its connections at once, and the upstream's, too."""

    async def scenario() -> None:
        async with (
            FakeUpstream(begins) as upstream,
            running(CONFIG.format(drain=600, url=upstream.base_url), KEY="k") as at,
        ):
            with pytest.raises(httpx.RemoteProtocolError):
                async with at.http.stream("POST", PATH, json=body()) as answer:
                    lines = answer.aiter_lines()
                    await anext(lines)
                    at.listeners.stop()
                    at.listeners.stop()
                    async for _ in lines:
                        pass
            async with asyncio.timeout(20):
                await at.task
                await upstream.hung_up.wait()

    asyncio.run(scenario())


def test_row_41_an_unread_stream_does_not_hold_the_process() -> None:
    """A client that reads nothing while its stream is cut cannot keep the gateway from leaving."""

    async def flood(conversation: Conversation) -> None:
        await conversation.stream_head()
        while True:
            await conversation.chunk(chunk("x" * 10_000))

    async def scenario() -> None:
        async with (
            FakeUpstream(flood) as upstream,
            running(CONFIG.format(drain="300ms", url=upstream.base_url), KEY="k") as at,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port, limit=1024)
            raw = json.dumps(body()).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw
            )
            await reader.readline()
            at.listeners.stop()
            async with asyncio.timeout(20):
                await at.task
            writer.close()

    asyncio.run(scenario())
