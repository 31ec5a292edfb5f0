"""A hook over HTTP, on a real socket: what it may answer, and that everything else is a failure."""

from __future__ import annotations

import asyncio
import json

import pytest

from backends.http import default_transport
from gateway.core.routing import Zone
from gateway.detect.hook import HookFailed, HttpHook, function_at
from tests.fakes.faults import fault
from tests.fakes.harness import run
from tests.fakes.ports import unused_port
from tests.fakes.upstream import Conversation, FakeUpstream, Script, reply


async def judging(conversation: Conversation) -> None:
    texts = conversation.request.json["texts"]
    said = ["machine" if "secret" in text else "public" for text in texts]
    await reply(200, {"zones": said})(conversation)


def test_it_is_given_texts_and_says_zones() -> None:
    """One POST for all texts, one zone for each."""

    async def story() -> None:
        async with FakeUpstream(judging) as server:
            hook = HttpHook(f"http://127.0.0.1:{server.port}/look", default_transport(), 5.0)
            assert list(await hook(["fine", "a secret"])) == [Zone.PUBLIC, Zone.MACHINE]
            (request,) = server.requests
            assert (request.method, request.path) == ("POST", "/look")
            assert json.loads(request.body) == {"texts": ["fine", "a secret"]}
            await hook.aclose()

    run(story())


@pytest.mark.parametrize(
    "script",
    [
        reply(500, {"zones": ["public"]}),
        reply(200, {"zones": []}),
        reply(200, {"zones": ["everywhere"]}),
        reply(200, ["public"]),
        fault("html"),
        fault("redirect"),
        fault("reset-unanswered"),
        fault("close-unanswered"),
        fault("huge-body"),
    ],
)
def test_whatever_else_it_does_is_a_failure(script: Script) -> None:
    """A status, a shape, a zone or a connection that is not as it should be."""

    async def story() -> None:
        async with FakeUpstream(script) as server:
            hook = HttpHook(f"http://127.0.0.1:{server.port}/", default_transport(), 5.0)
            with pytest.raises(HookFailed):
                await hook(["x"])
            await hook.aclose()

    run(story())


def test_nobody_there_is_a_failure() -> None:
    """A hook that is not running keeps everything here."""

    async def story() -> None:
        hook = HttpHook(f"http://127.0.0.1:{unused_port()}/", default_transport(), 5.0)
        with pytest.raises(HookFailed):
            await hook(["x"])
        await hook.aclose()

    run(story())


def test_a_silent_one_is_given_up() -> None:
    """The time is its caller's; its connection is closed with it."""

    async def story() -> None:
        async with FakeUpstream(fault("hang-headers")) as server:
            hook = HttpHook(f"http://127.0.0.1:{server.port}/", default_transport(), 5.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await hook(["x"])
            await server.hung_up.wait()
            await hook.aclose()

    run(story())


@pytest.mark.parametrize("place", ["nowhere:f", "json:nothing", "json:__name__"])
def test_a_function_that_is_not_there(place: str) -> None:
    """It is told at the start, not at the first request."""
    with pytest.raises(ValueError, match=place.partition(":")[0]):
        function_at(place)
