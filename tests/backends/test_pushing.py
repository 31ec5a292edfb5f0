"""A backend that is sent a sink puts there what it would have yielded, and ends in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from backends.base import Resources
from backends.http import default_transport
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import TandemError
from gateway.core.events import Event, Finish, TextDelta
from gateway.core.exchange import Call
from tests.fakes.harness import Kept, run
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    chunk,
    finish,
    role,
    usage,
)

WORDS = [chunk(f"word {i} é\n") for i in range(50)]
STREAM = b"".join([role(), *WORDS, finish(), usage(7, 9), DONE])
REQUEST = ChatRequest(
    endpoint=Endpoint.CHAT,
    dialect="openai_chat",
    model="auto",
    stream=True,
    body={"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
)


@asynccontextmanager
async def backend(
    base_url: str, transport: Callable[[], Any] = default_transport, **options: Any
) -> AsyncIterator[OpenAIBackend]:
    given = OpenAIOptions(kind="openai", base_url=base_url, model="m", **options)
    made = OpenAIBackend("up", given, Resources(transport=transport))
    try:
        yield made
    finally:
        await made.aclose()


async def pulled(upstream: OpenAIBackend) -> list[Event]:
    return [event async for event in upstream.stream(REQUEST, Call(id="r"))]


async def pushed(upstream: OpenAIBackend, kept: Kept) -> None:
    """The first event pulled, all others through the sink."""
    stream = cast(Any, upstream.stream(REQUEST, Call(id="r")))
    try:
        kept.put(await anext(stream))
        with pytest.raises(StopAsyncIteration):
            await stream.asend(kept)
    finally:
        await stream.aclose()


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def frames(events: list[Event]) -> bytes:
    return b"".join(event.frame or b"" for event in events)


def in_pieces(stream: bytes, size: int, *, end: bool = True) -> Callable[[Conversation], Any]:
    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for at in range(0, len(stream), size):
            await conversation.chunk(stream[at : at + size])
            await asyncio.sleep(0)
        if end:
            await conversation.end()

    return script


@pytest.mark.parametrize("size", [1, 7, 100, 1000, len(STREAM)])
def test_the_same_whichever_way(size: int) -> None:
    """However its bytes are cut, the frames that are pushed are the stream, and the connection is
    used again."""

    async def story() -> None:
        async with (
            FakeUpstream(in_pieces(STREAM, size)) as fake,
            backend(fake.base_url) as upstream,
        ):
            asked = await pulled(upstream)
            kept = Kept()
            await pushed(upstream, kept)
            assert frames(kept.events) == frames(asked) == STREAM.removesuffix(DONE)
            assert text(kept.events) == text(asked)
            assert [e for e in kept.events if not isinstance(e, TextDelta)] == [
                e for e in asked if not isinstance(e, TextDelta)
            ]
            assert fake.connections == 1

    run(story())


def test_a_frame_at_a_time() -> None:
    """The same where each frame comes by itself, with one event for each."""
    parts = [role(), *WORDS, finish(), usage(7, 9), DONE]

    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for part in parts:
            await conversation.chunk(part)
            await asyncio.sleep(0.002)
        await conversation.end()

    async def story() -> None:
        async with FakeUpstream(script) as fake, backend(fake.base_url) as upstream:
            kept = Kept()
            await pushed(upstream, kept)
            assert frames(kept.events) == STREAM.removesuffix(DONE)
            assert text(kept.events).count("word") == len(WORDS)

    run(story())


def test_through_another_transport() -> None:
    """A transport of somebody else's, which can only be read, fills the sink as well."""

    async def story() -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            headers = {"content-type": "text/event-stream"}
            return httpx.Response(200, headers=headers, content=STREAM)

        mock = lambda: httpx.MockTransport(answer)  # noqa: E731
        async with backend("http://box/v1", mock) as upstream:
            kept = Kept()
            await pushed(upstream, kept)
            assert frames(kept.events) == STREAM.removesuffix(DONE)

    run(story())


def test_who_is_behind_is_waited_for() -> None:
    """While the sink is full nothing is put there, and what the upstream can send has an end."""
    sent = 0

    async def endless(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.stream_head()
        big = chunk("x" * 65536)
        while sent < 2000:
            await conversation.chunk(big)
            sent += 1
        await conversation.chunk(finish() + DONE)
        await conversation.end()

    async def story() -> None:
        async with FakeUpstream(endless) as fake, backend(fake.base_url) as upstream:
            kept = Kept()
            kept.behind = True
            going = asyncio.create_task(pushed(upstream, kept))
            before = -1
            while before != sent or not kept.waited:
                before = sent
                await asyncio.sleep(0.1)
            assert len(kept.events) < 20
            assert sent < 1000  # the rest lies in the sockets' buffers, or was not sent
            kept.behind = False
            await going
            assert len(text(kept.events)) == 2000 * 65536

    run(story())


CUT = b"".join([role(), *WORDS[:5]])
ENDS = {
    "cut": (CUT, "upstream_broken"),
    "malformed": (CUT + b"data: {\n\n" + b"".join(WORDS), "upstream_broken"),
    "error": (CUT + b'data: {"error": {"message": "no", "code": 500}}\n\n', None),
    "silent": (CUT, "upstream_timeout"),
    "no finish": (CUT, "upstream_broken"),
}


@pytest.mark.parametrize("how", ENDS)
def test_failures(how: str) -> None:
    """What came before a failure is put, and then it is the same error as for who pulls."""
    stream, code = ENDS[how]

    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        await conversation.chunk(role() + WORDS[0])
        await asyncio.sleep(0.02)
        await conversation.chunk(stream[len(role() + WORDS[0]) :])
        if how == "silent":
            await conversation.hang()
        elif how == "no finish":
            await conversation.end()
        elif how == "cut":
            conversation.reset()

    async def story() -> None:
        timeouts = {"idle": 0.15 if how == "silent" else 30}
        async with (
            FakeUpstream(script) as fake,
            backend(fake.base_url, timeouts=timeouts) as upstream,
        ):
            with pytest.raises(TandemError) as asked:
                await pulled(upstream)
            kept = Kept()
            with pytest.raises(TandemError) as caught:
                await pushed(upstream, kept)
            assert (type(caught.value), caught.value.message) == (
                type(asked.value),
                asked.value.message,
            )
            assert code is None or caught.value.code == code
            if how != "cut":  # a reset may overtake what was sent before it
                assert frames(kept.events) == CUT

    run(story())


def test_a_sink_that_fails() -> None:
    """What the sink raises ends the stream there; its connection is not used again."""

    class Full(Kept):
        def put(self, event: Event) -> None:
            if isinstance(event, Finish):
                raise RuntimeError("no more")
            super().put(event)

    async def story() -> None:
        async with FakeUpstream(in_pieces(STREAM, 100)) as fake, backend(fake.base_url) as upstream:
            kept = Full()
            with pytest.raises(RuntimeError, match="no more"):
                await pushed(upstream, kept)
            assert text(kept.events).startswith("word 0")
            await pulled(upstream)
            assert fake.connections == 2

    run(story())


def test_a_client_that_leaves() -> None:
    """Cancelled while it pushes, a stream hangs up on its upstream."""

    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        await conversation.chunk(CUT)
        await conversation.hang()

    async def story() -> None:
        async with FakeUpstream(script) as fake, backend(fake.base_url) as upstream:
            kept = Kept()
            going = asyncio.create_task(pushed(upstream, kept))
            while frames(kept.events) != CUT:
                await asyncio.sleep(0)
            going.cancel()
            await asyncio.wait([going])
            assert going.cancelled()
            await asyncio.wait_for(fake.hung_up.wait(), 5)

    run(story())
