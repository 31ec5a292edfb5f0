"""Sessions outlive their sockets: cut anywhere, resumed, and no byte lost or said twice.

A toy target behind a real server, a proxy that cuts connections, and the edge's own client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from backends.base import Resources
from backends.clocks import Clock, Timeouts
from backends.openai import OpenAIBackend, OpenAIOptions
from backends.speculative import client
from backends.speculative.client import NoSession, Session, session_url
from backends.speculative.seams import Ended
from backends.speculative.session import (
    PATH,
    WINDOW,
    Ack,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    Message,
    Open,
    Opened,
    Resume,
)
from backends.speculative.transport import PostTransport, WebSocketTransport
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.errors import UpstreamBroken
from gateway.core.exchange import Call, Caller
from gateway.core.routing import Zone
from tests.fakes.chaos import ChaosProxy, Toxics
from tests.fakes.serving import serving
from tests.fakes.toy_pair import VOCABULARY, ToyModel

LONG = "the cat sat on the mat, and the mat lay on the floor of the house. " * 12
CALL = Call(id="req_1")
BODY = {"model": "toy", "prompt": "x", "max_tokens": 20_000}
PRINT = Fingerprint.of(VOCABULARY)


class Companion:
    """A companion's endpoint whose callers are who they say, and what became of its sessions."""

    def __init__(self, target: ToyModel, **settings: Any) -> None:
        self.target = target
        self.ended: list[Ended] = []
        self.endpoint = CompanionEndpoint(
            guard=lambda method, headers: None,
            authenticate=lambda headers: Caller(
                tenant=headers.get("authorization", "").removeprefix("Bearer ") or "edge"
            ),
            resolve=resolver({"toy": target}),
            ended=self.ended.append,
            linger_s=settings.pop("linger_s", 1.0),
            **settings,
        )


@asynccontextmanager
async def behind(
    target: ToyModel, toxics: Toxics = Toxics(), **settings: Any
) -> AsyncIterator[tuple[Companion, ChaosProxy]]:
    companion = Companion(target, **settings)
    async with serving(companion.endpoint) as base_url:
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        async with ChaosProxy(parts.hostname, parts.port, toxics) as proxy:
            yield companion, proxy


def upstream(port: int) -> OpenAIBackend:
    options = OpenAIOptions(
        kind="companion",
        zone=Zone.MACHINE.label,  # type: ignore[arg-type]
        base_url=f"http://127.0.0.1:{port}",
        model="toy",
    )
    return OpenAIBackend("cloud", options, Resources())


async def connect(port: int, *, posts: bool = False) -> tuple[Session, OpenAIBackend]:
    """The edge's session, over a WebSocket or over HTTP alone."""
    door = upstream(port)
    clock = Clock("cloud", Timeouts(), CALL, streaming=True)
    url = session_url(f"http://127.0.0.1:{port}")
    if not posts:
        session = await Session.connect(
            url, upstream="cloud", zone=Zone.MACHINE, call=CALL, clock=clock, api_key=None,
            timeout_s=2.0,
        )  # fmt: skip
        return session, door

    async def dial() -> PostTransport:
        return PostTransport(door.http, client._http_url(url), CALL, clock)

    return Session("cloud", await dial(), clock, dial), door


async def read(
    port: int,
    *,
    posts: bool = False,
    then: Callable[[int], None] = lambda read: None,
    drafts: bool = False,
) -> tuple[str, Session]:
    """The whole answer; `then` hears how many tokens have been read."""
    session, door = await connect(port, posts=posts)
    text, done = b"", 0
    try:
        await session.open(Open(model="toy", endpoint="completion", request=BODY, model_fp=PRINT))
        async for message in session.messages():
            if isinstance(message, Commit):
                assert message.base_pos == done, "a position was skipped or said twice"
                done += len(message.tokens)
                text += message.text_bytes
                if drafts:
                    await session.draft(
                        Draft(epoch=message.epoch, base_pos=done, tokens=tuple(b"the cat"))
                    )
                then(done)
        return text.decode(), session
    finally:
        await session.aclose()
        await door.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("posts", [False, True], ids=["websocket", "posts"])
def test_an_answer_that_is_cut_is_resumed(posts: bool) -> None:
    """Cut by a FIN or a reset at any byte, in mid-commit too: the answer is whole, said once."""

    async def scenario() -> None:
        # 700 bytes are what it takes to open either session; a commit has some 300.
        for at in range(1_500, 12_000, 1_379):
            for toxics in (Toxics(reset_after=at), Toxics(cut_after=at + 1)):
                async with behind(ToyModel("toy", LONG), toxics) as (companion, proxy):

                    def heal(read: int, proxy: ChaosProxy = proxy) -> None:
                        proxy.toxics = Toxics()

                    text, session = await read(proxy.port, posts=posts, then=heal, drafts=True)
                    assert text == LONG
                    assert session.resumes == 1, at
                    await until(lambda c=companion: bool(c.ended))  # type: ignore[misc]
                    [ended] = companion.ended
                    assert (ended.outcome, ended.resumes) == ("ok", 1)
                    assert ended.usage.completion_tokens == len(LONG) + 1
                    assert len(companion.target.engine.sequences) == 1, "nothing was done twice"

    asyncio.run(scenario())


def test_it_is_cut_again_and_again() -> None:
    """Each new socket dies too, and still the answer comes whole."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG), Toxics(reset_after=6_000)) as (companion, proxy):
            text, session = await read(proxy.port)
            assert text == LONG
            assert session.resumes == proxy.connections - 1 > 3

    asyncio.run(scenario())


def test_the_end_is_not_lost() -> None:
    """A socket that breaks behind the last commit, before it has arrived: it is said again."""

    async def scenario() -> None:
        short = "a short answer"
        async with behind(ToyModel("toy", short)) as (companion, proxy):
            await read(proxy.port)
            whole = proxy.carried
        for at in range(whole - 400, whole - 5, 57):
            async with behind(ToyModel("toy", short), Toxics(reset_after=at)) as (_, proxy):

                def heal(read: int, proxy: ChaosProxy = proxy) -> None:
                    proxy.toxics = Toxics()

                text, session = await read(proxy.port, then=heal)
                assert text == short

    asyncio.run(scenario())


def test_a_companion_that_is_gone_is_an_error() -> None:
    """Nobody there any more, or a process that knows no such session: a typed error, not a wait."""

    async def scenario() -> None:
        target = ToyModel("toy", LONG)
        session = None
        async with behind(target, Toxics(reset_after=4_000)) as (first, proxy):

            def another(read: int) -> None:
                first.endpoint.shelf._known.clear()

            with pytest.raises(UpstreamBroken):
                await read(proxy.port, then=another)
        companion = Companion(ToyModel("toy", LONG))
        async with serving(companion.endpoint) as base_url:
            port = urlsplit(base_url).port
            assert port is not None
            session, door = await connect(port)
            companion.target.engine.hold = asyncio.Event()
            await session.open(Open(model="toy", endpoint="completion", request=BODY))
        with pytest.raises(UpstreamBroken):
            async for _ in session.messages():
                pass
        await session.aclose()
        await door.aclose()

    asyncio.run(scenario())


def test_leaving_is_not_breaking() -> None:
    """A session that is closed in good order is freed at once; one that breaks is halted, kept for
    a time, and then freed too."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG * 9), kept_s=0.3) as (companion, proxy):
            session, door = await connect(proxy.port)
            await session.open(Open(model="toy", endpoint="completion", request=BODY))
            await session.aclose()
            await until(lambda: len(companion.ended) == 1)
            [left] = companion.target.engine.sequences
            assert left.closed and companion.ended[0].outcome == "cancelled"
            session, door = await connect(proxy.port)
            await session.open(Open(model="toy", endpoint="completion", request=BODY))
            await session._transport.drop()
            await until(lambda: companion.endpoint.shelf.waiting == 1)
            broken = companion.target.engine.sequences[1]
            assert broken.held and not broken.closed
            await until(lambda: len(companion.ended) == 2)
            assert broken.closed and companion.endpoint.shelf.waiting == 0
            await door.aclose()

    asyncio.run(scenario())


def test_only_so_many_wait() -> None:
    """Beyond the bound the session that has waited longest is given up."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG * 9)) as (companion, proxy):
            for _ in range(6):
                session, door = await connect(proxy.port)
                await session.open(Open(model="toy", endpoint="completion", request=BODY))
                waiting = companion.endpoint.shelf.waiting
                await session._transport.drop()
                await until(lambda w=waiting: companion.endpoint.shelf.waiting == min(4, w + 1))  # type: ignore[misc]
                await door.aclose()
            await until(lambda: len(companion.ended) == 2)
            closed = [sequence.closed for sequence in companion.target.engine.sequences]
            assert closed == [True, True, False, False, False, False]

    asyncio.run(scenario())


def test_a_target_rests_beyond_the_last_ack() -> None:
    """A reader that says nothing is a window of tokens, not an answer, and goes on with an ack."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG)) as (companion, proxy):
            socket = await WebSocketTransport.connect(
                session_url(f"http://127.0.0.1:{proxy.port}"), api_key=None, timeout_s=2
            )
            await socket.send(Open(model="toy", endpoint="completion", request=BODY))
            assert isinstance(await socket.receive(), Opened)
            [sequence] = companion.target.engine.sequences
            await until(lambda: sequence.held)
            said = len(sequence._said)
            assert WINDOW <= said < WINDOW + 16
            done, finish = 0, None
            while finish is None:
                message = await socket.receive()
                assert isinstance(message, Commit)
                done, finish = message.base_pos + len(message.tokens), message.finish
                if done == said or done > said and done % 100 == 0:
                    await socket.send(Ack(pos=done))
            assert done == len(LONG) + 1
            await socket.aclose(ended=True)

    asyncio.run(scenario())


async def _begin(port: int, first: Open | Resume, key: str = "edge") -> Message:
    socket = await WebSocketTransport.connect(
        session_url(f"http://127.0.0.1:{port}"), api_key=key, timeout_s=2
    )
    try:
        await socket.send(first)
        return await socket.receive()
    finally:
        await socket.drop()


def test_who_may_resume() -> None:
    """Only the key that opened it, with the session's token, at a position that was said, and in
    the companion's version; a wrong guess leaves the session as it is."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG)) as (companion, proxy):
            opening = Open(model="toy", endpoint="completion", request=BODY)
            opened = await _begin(proxy.port, opening)
            assert isinstance(opened, Opened)
            await until(lambda: companion.endpoint.shelf.waiting == 1)
            right = {"session": opened.session, "token": opened.token, "have_pos": 0}
            wrong: list[tuple[dict[str, Any], str]] = [
                ({"token": "x" * 32}, "edge"),
                ({"session": "x" * 24}, "edge"),
                ({}, "another"),
                ({"v": 99}, "edge"),
            ]
            for change, key in wrong:
                refused = await _begin(proxy.port, Resume(**{**right, **change}), key)
                assert isinstance(refused, Failure), change
                assert refused.code in ("not_found", "version_mismatch")
                assert companion.endpoint.shelf.waiting == 1
            answer = await _begin(proxy.port, Resume(**right))
            assert isinstance(answer, Opened) and answer.pos == 0
            await until(lambda: companion.endpoint.shelf.waiting == 1)
            never = await _begin(proxy.port, Resume(**{**right, "have_pos": 100_000}))
            assert isinstance(never, Failure)

    asyncio.run(scenario())


def test_a_half_open_socket_is_replaced() -> None:
    """A socket that is dead without our having heard of it does not hold its session."""

    async def scenario() -> None:
        async with behind(ToyModel("toy", LONG)) as (companion, proxy):
            url = session_url(f"http://127.0.0.1:{proxy.port}")
            first = await WebSocketTransport.connect(url, api_key=None, timeout_s=2)
            await first.send(Open(model="toy", endpoint="completion", request=BODY))
            opened = await first.receive()
            assert isinstance(opened, Opened)
            second = await WebSocketTransport.connect(url, api_key=None, timeout_s=2)
            await second.send(Resume(session=opened.session, token=opened.token, have_pos=0))
            again, commit = await second.receive(), await second.receive()
            assert isinstance(again, Opened) and isinstance(commit, Commit)
            assert commit.base_pos == 0
            await second.aclose(ended=False)
            await until(lambda: len(companion.ended) == 1)
            await first.drop()

    asyncio.run(scenario())


def test_posts_of_strangers_are_refused() -> None:
    """What is posted to a session needs its id, its token and its key; garbage changes nothing."""

    async def scenario() -> None:
        async with (
            behind(ToyModel("toy", LONG)) as (_, proxy),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}") as http,
        ):
            got = await http.get(PATH)
            assert got.status_code == 405
            for body, status in (
                (b"nonsense", 400),
                (b"\xff", 400),
                (b'{"token": "x", "messages": []}', 404),
                (b'{"token": "x", "messages": [{"type": "what"}]}', 400),
                (b'{"token": "x", "messages": 3}', 400),
            ):
                got = await http.post(f"{PATH}/nobody", content=body)
                assert got.status_code == status, body
                assert set(got.json()["error"]) >= {"message", "code", "type"}
            got = await http.post(PATH, content=b'{"type": "cancel"}')
            assert got.status_code == 400

    asyncio.run(scenario())


def test_where_no_upgrade_comes_through() -> None:
    """A proxy that strips the Upgrade: the same answer over events and posts, drafts included."""

    async def scenario() -> None:
        companion = Companion(ToyModel("toy", LONG))

        async def stripped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.http.response.start", "status": 405, "headers": []})
                await send({"type": "websocket.http.response.body", "body": b""})
                await receive()
                return
            await companion.endpoint(scope, receive, send)

        async with serving(stripped) as base_url:
            door = upstream(urlsplit(base_url).port or 0)
            clock = Clock("cloud", Timeouts(), CALL, streaming=True)
            session = await Session.connect(
                session_url(base_url), upstream="cloud", zone=Zone.MACHINE, call=CALL,
                clock=clock, api_key=None, timeout_s=2.0, http=door.http,
            )  # fmt: skip
            try:
                opened = await session.open(
                    Open(model="toy", endpoint="completion", request=BODY, model_fp=PRINT)
                )
                assert opened.prompt_ids == (1, 2, 3)
                text, accepted = b"", 0
                async for message in session.messages():
                    if isinstance(message, Commit):
                        text += message.text_bytes
                        accepted += message.n_accepted
                        at = message.base_pos + len(message.tokens)
                        ahead = tuple(LONG.encode()[at + 8 : at + 24])
                        if ahead:
                            await session.draft(
                                Draft(epoch=message.epoch, base_pos=at + 8, tokens=ahead)
                            )
                assert text.decode() == LONG
                assert accepted > 0, "no draft came up"
            finally:
                await session.aclose()
                await door.aclose()
            await until(lambda: bool(companion.ended))
            assert companion.ended[0].outcome == "ok"

    asyncio.run(scenario())


def test_the_zone_holds_for_posts() -> None:
    """HTTP alone goes through the same door: outside the request's zone nothing is sent."""

    async def scenario() -> None:
        heard = 0

        async def nobody(scope: Any, receive: Any, send: Any) -> None:
            nonlocal heard
            heard += 1

        async with serving(nobody) as base_url:
            door = OpenAIBackend(
                "cloud", OpenAIOptions(kind="companion", base_url=base_url, model="toy"),
                Resources(),
            )  # fmt: skip
            call = Call(id="req_1", zone=Zone.MACHINE)
            clock = Clock("cloud", Timeouts(), call, streaming=True)
            transport = PostTransport(
                door.http, client._http_url(session_url(base_url)), call, clock
            )
            with pytest.raises(NoSession):
                await transport.begin(Open(model="toy", request=BODY))
            await door.aclose()
        assert heard == 0

    asyncio.run(scenario())
