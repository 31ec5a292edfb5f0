"""An attempt's clocks, in virtual time: to the second, whatever an upstream sends, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Resources
from backends.clocks import Timeouts
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import UpstreamTimeout
from gateway.core.events import TextDelta
from gateway.core.exchange import Call
from tests.fakes.upstream import DONE, chunk, finish, role
from tests.fakes.virtual_time import run

PARTS = {
    "role": role(),
    "blank": chunk(""),
    "comment": b": still here\n\n",
    "half": b"data: {",
    "content": chunk("x"),
}


@dataclass(frozen=True)
class Plan:
    """When the head comes, then each part, in seconds after the one before."""

    head: int
    parts: Sequence[tuple[int, str]]
    reader: Sequence[int]
    """How long ours takes with each content before it asks for more."""


class Upstream(httpx.AsyncBaseTransport):
    """Sends its plan, in whatever time the loop keeps. `closed` says that it was hung up on."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.plan.head)
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=_Stream(self))


class _Stream(httpx.AsyncByteStream):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for delay, kind in self._upstream.plan.parts:
            await asyncio.sleep(delay)
            # A beginning is whole by the next part, which is none of its own then.
            yield PARTS[kind] if kind != "half" else b": half of a com"
            if kind == "half":
                yield b"ment\n\n"
        yield finish() + DONE

    async def aclose(self) -> None:
        self._upstream.closed = True


def expected(plan: Plan, limits: Timeouts, deadline: float) -> tuple[float, str, int]:
    """(when it ends, how, after how many contents): the promise, written once more."""
    now, until, said = float(plan.head), limits.first_content, 0
    if now > min(until, deadline):
        return min(until, deadline), "deadline" if deadline < until else "first", 0
    readers = iter(plan.reader)
    for delay, kind in plan.parts:
        if now + delay > min(until, deadline):
            end = max(now, min(until, deadline))
            why = "deadline" if deadline < until else "idle" if said else "first"
            return end, why, said
        now += delay
        if kind == "content":
            said += 1
            now += next(readers)
            until = now + limits.idle
    return now, "", said


async def happened(plan: Plan, limits: Timeouts, deadline: float) -> tuple[float, str, int, bool]:
    loop = asyncio.get_running_loop()
    upstream = Upstream(plan)
    backend = OpenAIBackend(
        "up",
        OpenAIOptions(kind="openai", base_url="http://up.test/v1", model="m", timeouts=limits),
        Resources(transport=lambda: upstream, clock=loop.time),
    )
    request = ChatRequest(
        endpoint=Endpoint.CHAT, dialect="openai_chat", model="m", stream=True, body={"messages": []}
    )
    said, why, readers = 0, "", iter(plan.reader)
    stream = backend.stream(request, Call(id="r", deadline=deadline))
    try:
        async for event in stream:
            if isinstance(event, TextDelta) and event.text:
                said += 1
                await asyncio.sleep(next(readers))
    except UpstreamTimeout as error:
        words = {"deadline": "deadline", "no content": "first", "no further": "idle"}
        [why] = [short for text, short in words.items() if text in error.message]
    finally:
        await stream.aclose()
    return loop.time(), why, said, upstream.closed


# Limits end between whole seconds, and whatever is sent or read comes at one: no ties.
limits = st.builds(
    lambda first, idle: Timeouts(first_content=first + 0.5, idle=idle + 0.25),
    st.integers(1, 12),
    st.integers(1, 12),
)
plans = st.builds(
    Plan,
    head=st.integers(0, 14),
    parts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from(sorted(PARTS))), max_size=12),
    reader=st.lists(st.integers(0, 30), min_size=12, max_size=12),
)


@given(plans, limits, st.integers(1, 80))
def test_the_clocks_are_exact(plan: Plan, limits: Timeouts, deadline: int) -> None:
    """First content, idle and deadline end an attempt at their second and for their reason; neither
    comments and blanks nor our own reader's slowness move them; the upstream is hung up on.
    """
    end, why, said = expected(plan, limits, deadline + 0.125)
    when, ended, heard, closed = run(happened(plan, limits, deadline + 0.125))
    assert (when, ended, heard) == (pytest.approx(end), why, said)
    assert closed or plan.head > min(limits.first_content, deadline)


def test_a_whole_answer_has_one_limit() -> None:
    """What is not streamed has `document`, from the request to its last byte."""

    async def story() -> float:
        loop = asyncio.get_running_loop()
        slow = Upstream(Plan(head=5, parts=[], reader=[]))
        backend = OpenAIBackend(
            "up",
            OpenAIOptions(
                kind="openai", base_url="http://up.test/v1", model="m",
                timeouts=Timeouts(first_content=1, idle=1, document=4.5),
            ),
            Resources(transport=lambda: slow, clock=loop.time),
        )  # fmt: skip
        request = ChatRequest(
            endpoint=Endpoint.CHAT, dialect="openai_chat", model="m", stream=False, body={}
        )
        with pytest.raises(UpstreamTimeout):
            async for _ in backend.stream(request, Call(id="r")):
                pass
        return loop.time()

    assert run(story()) == pytest.approx(4.5)
