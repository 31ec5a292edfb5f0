"""The companion's endpoint: who may open a session, and what an `open` means."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from backends.speculative.seams import Ended
from backends.speculative.session import PATH, Open
from gateway.companion import CompanionEndpoint
from gateway.companion_open import read_open, resolver
from gateway.core.chat import Endpoint, Feature, Sampling
from gateway.core.errors import AuthenticationFailed, Forbidden, NotFound
from gateway.core.exchange import Caller
from gateway.core.routing import Zone
from tests.fakes.serving import serving
from tests.fakes.toy_pair import ToyModel

SENTENCE = "hello there"


def guard(method: str, headers: Mapping[str, str]) -> None:
    if "origin" in headers:
        raise Forbidden("Web pages may not use this gateway.")


def authenticate(headers: Mapping[str, str]) -> Caller:
    if headers.get("authorization") != "Bearer good":
        raise AuthenticationFailed("Incorrect API key.")
    return Caller()


@asynccontextmanager
async def companion(**changes: Any) -> AsyncIterator[tuple[str, list[Ended]]]:
    ended: list[Ended] = []
    settings: dict[str, Any] = {
        "guard": guard,
        "authenticate": authenticate,
        "resolve": resolver({"toy": ToyModel("toy", SENTENCE)}),
        "ended": ended.append,
        "linger_s": 0.0,
        "kept_s": 0.0,
    }
    async with serving(CompanionEndpoint(**{**settings, **changes})) as base_url:
        yield base_url.replace("http:", "ws:") + PATH, ended


async def dial(url: str, key: str = "good", **options: Any) -> ClientConnection:
    return await connect(
        url, additional_headers={"Authorization": f"Bearer {key}"}, proxy=None, **options
    )


def opening(**fields: Any) -> str:
    return json.dumps({"type": "open", "v": 1, **fields})


async def read_all(socket: ClientConnection) -> list[Any]:
    messages = []
    try:
        async with asyncio.timeout(10):
            while True:
                messages.append(json.loads(await socket.recv()))
    except ConnectionClosedOK:
        return messages


def test_a_session_by_hand() -> None:
    """JSON in, JSON out: a person can hold a session, and it is closed in good order."""

    async def scenario() -> None:
        async with companion() as (url, ended):
            socket = await dial(url)
            body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
            await socket.send(opening(request=body))
            opened, *commits = await read_all(socket)
            assert opened["type"] == "opened"
            assert {commit["type"] for commit in commits} == {"commit"}
            assert "".join(commit["text_bytes"] for commit in commits) == SENTENCE
            assert commits[-1]["finish"] == "stop"
            assert [end.outcome for end in ended] == ["ok"]
            assert ended[0].session == opened["session"]

    asyncio.run(scenario())


def test_row_41_a_session_is_told_why_it_ends() -> None:
    """Draining refuses new sessions with a 503; one that outlasts the grace gets a typed error and
    a close in good order, and is recorded.
    """

    class Stuck(ToyModel):
        async def prompt(self, request: Any) -> tuple[int, ...]:
            asked.set()
            await asyncio.Event().wait()
            return ()

    async def scenario() -> None:
        ended: list[Ended] = []
        draining = False
        endpoint = CompanionEndpoint(
            guard=guard,
            authenticate=authenticate,
            resolve=resolver({"toy": Stuck("toy")}),
            ended=ended.append,
            draining=lambda: draining,
        )
        async with serving(endpoint) as base_url:
            url = base_url.replace("http:", "ws:") + PATH
            socket = await dial(url)
            body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
            await socket.send(opening(request=body))
            async with asyncio.timeout(10):
                await asked.wait()
            draining = True
            with pytest.raises(InvalidStatus) as caught:
                await dial(url)
            assert caught.value.response.status_code == 503
            endpoint.cut()
            (said,) = await read_all(socket)
            assert (said["type"], said["code"]) == ("error", "draining")
            assert [end.outcome for end in ended] == ["draining"]

    asked = asyncio.Event()
    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "path", "origin", "status"),
    [
        ("bad", PATH, None, 401),
        ("good", PATH, "https://evil.example", 403),
        ("good", "/v1/tandem/other", None, 404),
    ],
)
def test_who_may_not_connect(
    key: str, path: str, origin: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused on the Upgrade, with OpenAI's error body, before a socket stands; and quietly."""

    async def scenario() -> None:
        async with companion() as (url, ended):
            with pytest.raises(InvalidStatus) as caught:
                await dial(url.replace(PATH, path), key, origin=origin)
            response = caught.value.response
            assert response.status_code == status
            assert set(json.loads(response.body or b"")["error"]) == {
                "message", "type", "param", "code",
            }  # fmt: skip
            assert ended == []

    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_sessions_are_bounded() -> None:
    """Beyond the limit a caller is told to come again, and the rest are not disturbed; a socket
    that has said nothing yet is none of them."""

    async def scenario() -> None:
        async with companion(max_sessions=1) as (url, _):
            first, waits = await dial(url), await dial(url)
            ask = opening(request={"model": "x", "prompt": "hi"}, endpoint="completion")
            await first.send(ask)
            assert json.loads(await first.recv())["type"] == "opened"
            with pytest.raises(InvalidStatus) as caught:
                await dial(url)
            assert caught.value.response.status_code == 429
            await waits.send(ask)
            assert json.loads(await waits.recv())["code"] == "rate_limit_exceeded"
            assert (await read_all(first))[-1]["finish"] == "stop"
            again = await dial(url)
            await again.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not json", "bad_message"),
        (json.dumps({"type": "draft", "epoch": 0, "base_pos": 0, "tokens": [1]}), "bad_message"),
        (opening(model="other", prompt_ids=[1]), "not_found"),
        (opening(request={"model": "x", "messages": []}), "invalid_value"),
        (opening(request={"model": "x", "chat_template": "{{ x }}"}), "parameter_not_allowed"),
        (opening(v=99, prompt_ids=[1]), "version_mismatch"),
    ],
)
def test_what_is_not_answered(frame: str, code: str) -> None:
    """Each refusal is one error message with its code, and then the socket closes."""

    async def scenario() -> None:
        async with companion() as (url, ended):
            socket = await dial(url)
            await socket.send(frame)
            [failure] = await read_all(socket)
            assert (failure["type"], failure["code"]) == ("error", code)
            # What never became a session leaves no record of one.
            assert [end.outcome for end in ended] == ([] if code == "bad_message" else [code])

    asyncio.run(scenario())


def test_a_failure_of_ours_is_contained() -> None:
    """What nobody foresaw ends one session with an error, not the server."""

    def broken(model: str, caller: Caller) -> Any:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with companion(resolve=broken) as (url, _):
            for _ in range(2):
                socket = await dial(url)
                await socket.send(opening(prompt_ids=[1]))
                failure = json.loads(await socket.recv())
                assert (failure["code"], failure["fallback"]) == ("internal_error", "stream")
                await socket.close()

    asyncio.run(scenario())


def test_keys_bind_in_sessions_too() -> None:
    """A key's models and zone decide here as they do over HTTP."""
    machine, public = ToyModel("a"), ToyModel("b")
    resolve = resolver({"a": machine, "b": public})
    assert resolve("a", Caller()) is machine
    assert resolver({"a": machine})("", Caller()) is machine
    with pytest.raises(NotFound):
        resolve("", Caller())
    with pytest.raises(Forbidden):
        resolve("a", Caller(models=frozenset({"b"})))
    assert resolve("a", Caller(zone=Zone.MACHINE)) is machine


def test_token_ids_bring_their_own_sampling() -> None:
    """An `open` with ids means the completion that those settings would make."""
    sampling = Sampling(max_tokens=3, temperature=0.5, top_k=5, seed=1, presence_penalty=1.0)
    request = read_open(Open(prompt_ids=(4, 5), sampling=sampling), Caller())
    assert (request.endpoint, request.prompt) == (Endpoint.COMPLETION, (4, 5))
    assert request.sampling == sampling
    assert request.features == {
        Feature.COMPLETION,
        Feature.TOKEN_PROMPT,
        Feature.TOP_K,
        Feature.SEED,
        Feature.PENALTIES,
    }
    greedy = read_open(Open(prompt_ids=(4,), coupling="greedy", sampling=sampling), Caller())
    assert greedy.sampling.greedy
