"""Our HTTP/2 client against real servers over TLS, well-behaved ones and ours that are not."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import certifi
import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
from h2.errors import ErrorCodes

from backends import http as http_module
from backends import http2_connection
from backends.base import Resources
from backends.http1 import FRESH, Http1Transport
from backends.http2 import ENOUGH, Http2Transport, offers_http2
from backends.http2_connection import STREAM_WINDOW
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.config import ConfigError, loads
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import TandemError, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from gateway.core.events import Event, TextDelta
from gateway.core.exchange import Call
from tests.fakes.http2_upstream import Http2Conversation, Http2Upstream
from tests.fakes.ports import unused_port
from tests.fakes.running import running
from tests.fakes.tls import Localhost, localhost
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    Script,
    answer,
    chunk,
    finish,
    reply,
    role,
    sse,
    usage,
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Localhost:
    return localhost(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def transport(here: Localhost, idle_s: float = 30.0) -> AsyncIterator[Http2Transport]:
    made = Http2Transport(offers_http2(here.client()), Http1Transport(here.client()), idle_s=idle_s)
    try:
        yield made
    finally:
        await made.aclose()


def upstream_of(here: Localhost, *scripts: Script, **options: Any) -> Http2Upstream:
    return Http2Upstream(*scripts, tls=here.server("h2"), **options)


def post(url: str, body: bytes = b"{}", **extensions: object) -> httpx.Request:
    return httpx.Request("POST", url, content=body, extensions=dict(extensions))


async def exchange(client: Http2Transport, url: str, **extensions: object) -> tuple[int, bytes]:
    response = await client.handle_async_request(post(url, **extensions))
    try:
        return response.status_code, await response.aread()
    finally:
        await response.aclose()


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def h2(conversation: Conversation) -> Http2Conversation:
    assert isinstance(conversation, Http2Conversation)
    return conversation


def says(text: bytes) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.raw(text)

    return script


async def hang(conversation: Conversation) -> None:
    await conversation.hang()


async def gush(conversation: Conversation) -> None:
    await conversation.stream_head()
    while True:
        await conversation.chunk(b"x" * 65536)


def test_answers_share_a_connection(here: Localhost) -> None:
    """Thirty-two requests at once are streams of one connection; so are those that come later."""
    together = asyncio.Event()

    async def all_at_once(conversation: Conversation) -> None:
        if len(upstream.requests) == 32:
            together.set()
        await together.wait()
        await says(conversation.request.body)(conversation)

    upstream = upstream_of(here, all_at_once)

    async def scenario() -> None:
        async with upstream, transport(here) as client:

            async def ask(number: int) -> None:
                request = post(upstream.base_url, b"%d" % number)
                response = await client.handle_async_request(request)
                assert (response.status_code, await response.aread()) == (200, b"%d" % number)
                assert response.extensions["http_version"] == b"HTTP/2"
                await response.aclose()

            async with asyncio.timeout(30):
                await asyncio.gather(*map(ask, range(32)))
            await ask(33)
            assert upstream.connections == 1
            assert upstream.resets == []

    asyncio.run(scenario())


def test_what_is_sent(here: Localhost) -> None:
    """Host becomes :authority, what belongs to HTTP/1.1 stays here, the body arrives as it was."""

    async def scenario() -> None:
        async with upstream_of(here, answer("yes")) as upstream, transport(here) as client:
            body = bytes(range(256)) * 4000  # more than the server's window at first
            url = f"{upstream.base_url}/chat?x=1"
            request = httpx.Request(
                "POST", url, content=body, headers={"Connection": "close", "X-Any": "y"}
            )
            response = await client.handle_async_request(request)
            await response.aread()
            seen = upstream.requests[0]
            assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat?x=1", body)
            assert seen.headers[":authority"] == f"localhost:{upstream.port}"
            assert seen.headers["x-any"] == "y"
            assert not {"host", "connection"} & set(seen.headers)

    asyncio.run(scenario())


def test_more_streams_than_a_connection_takes(here: Localhost) -> None:
    """Beyond the server's limit another connection is opened; idle ones are closed in time."""
    together = asyncio.Event()

    async def patient(conversation: Conversation) -> None:
        await together.wait()
        await says(b"ok")(conversation)

    async def scenario() -> None:
        async with (
            upstream_of(here, says(b"ok"), patient, streams=2) as upstream,
            transport(here, idle_s=0.2) as client,
        ):
            await exchange(client, upstream.base_url)
            asked = [asyncio.create_task(exchange(client, upstream.base_url)) for _ in range(5)]
            await until(lambda: len(upstream.requests) == 6)
            assert upstream.connections == client.connections == 3
            together.set()
            assert await asyncio.gather(*asked) == [(200, b"ok")] * 5
            await until(lambda: client.connections == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in the body"])
def test_cancelled(here: Localhost, begun: bool) -> None:
    """Whoever gives up resets the stream with CANCEL, and the connection serves on."""

    async def thinking(conversation: Conversation) -> None:
        if begun:
            await conversation.stream_head()
        await conversation.hang()

    async def scenario() -> None:
        async with upstream_of(here, thinking, says(b"ok")) as upstream, transport(here) as client:
            work = asyncio.create_task(exchange(client, upstream.base_url))
            await until(lambda: upstream.requests)
            work.cancel()
            await asyncio.wait({work})
            await until(lambda: upstream.resets)
            assert upstream.resets == [ErrorCodes.CANCEL]
            assert await exchange(client, upstream.base_url) == (200, b"ok")
            assert upstream.connections == 1

    asyncio.run(scenario())


def test_closed_early(here: Localhost) -> None:
    """A stream that is closed before its end is reset; what was on its way does no harm."""

    async def scenario() -> None:
        async with upstream_of(here, gush, says(b"ok")) as upstream, transport(here) as client:
            response = await client.handle_async_request(post(upstream.base_url))
            await anext(aiter(response.stream))
            await response.aclose()
            assert await exchange(client, upstream.base_url) == (200, b"ok")
            assert upstream.resets[0] == ErrorCodes.CANCEL
            assert upstream.connections == 1

    asyncio.run(scenario())


def test_slow_reader(here: Localhost) -> None:
    """A body that nobody reads stops at its window; other streams flow; it goes on when read."""
    sent = 0

    async def gushing(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.stream_head()
        while True:
            await conversation.chunk(b"x" * 16384)
            sent += 16384

    async def scenario() -> None:
        big = b"y" * 8 * 1024 * 1024  # more than the connection's window
        async with (
            upstream_of(here, gushing, says(big)) as upstream,
            transport(here) as client,
        ):
            slow = await client.handle_async_request(post(upstream.base_url))
            await until(lambda: sent == STREAM_WINDOW)
            assert await exchange(client, upstream.base_url) == (200, big)
            assert sent == STREAM_WINDOW
            parts = aiter(slow.stream)
            assert len(await anext(parts)) == STREAM_WINDOW
            while sent < 8 * STREAM_WINDOW:
                assert len(await anext(parts)) <= STREAM_WINDOW
            await slow.aclose()
            assert upstream.connections == 1

    asyncio.run(scenario())


def test_goaway(here: Localhost) -> None:
    """After GOAWAY what has begun is finished, and what comes next takes a new connection."""
    leave = asyncio.Event()

    async def leaving(conversation: Conversation) -> None:
        await conversation.stream_head()
        await conversation.chunk(b"one")
        await h2(conversation).goaway()
        await leave.wait()
        await conversation.chunk(b" two")

    async def scenario() -> None:
        async with upstream_of(here, leaving, says(b"ok")) as upstream, transport(here) as client:
            response = await client.handle_async_request(post(upstream.base_url))
            parts = aiter(response.stream)
            assert await anext(parts) == b"one"
            while upstream.connections == 1:  # as soon as the GOAWAY has arrived
                assert await exchange(client, upstream.base_url) == (200, b"ok")
            leave.set()
            assert [part async for part in parts] == [b" two"]
            await response.aclose()
            await until(lambda: client.connections == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["refused", "goaway", "http/1.1 required"])
def test_never_looked_at(here: Localhost, how: str) -> None:
    """A request that the server says it has not looked at fails as one closed unanswered."""

    async def refusing(conversation: Conversation) -> None:
        if how == "refused":
            await h2(conversation).refuse()
        elif how == "goaway":
            await h2(conversation).goaway(last=0)
            await conversation.hang()
        else:
            await h2(conversation).refuse(ErrorCodes.HTTP_1_1_REQUIRED)

    async def scenario() -> None:
        async with upstream_of(here, refusing, says(b"ok")) as upstream, transport(here) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="^Server disconnected"):
                await exchange(client, upstream.base_url)
            if how != "http/1.1 required":
                again = await exchange(client, upstream.base_url, **{FRESH: True})
                assert (again, upstream.connections) == ((200, b"ok"), 2)

    asyncio.run(scenario())


def test_refusals_open_few_connections(here: Localhost) -> None:
    """A server that refuses everything sees a handful of connections, not one for each refusal."""

    async def refusing(conversation: Conversation) -> None:
        await h2(conversation).refuse()

    async def scenario() -> None:
        async with upstream_of(here, refusing) as upstream, transport(here) as client:
            for _ in range(20):
                with pytest.raises(httpx.RemoteProtocolError):
                    await exchange(client, upstream.base_url, **{FRESH: True})
            assert upstream.connections == ENOUGH

    asyncio.run(scenario())


def test_nobody_reads_the_request(here: Localhost) -> None:
    """A body that stands still for the write limit is given up, and its stream reset."""

    async def scenario() -> None:
        async with (
            upstream_of(here, says(b"ok"), reads=False) as upstream,
            transport(here) as client,
        ):
            long = post(upstream.base_url, bytes(200_000), timeout={"write": 0.2})
            with pytest.raises(httpx.WriteTimeout):
                await client.handle_async_request(long)
            await until(lambda: upstream.resets)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, id="another protocol"),
        pytest.param(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + bytes(0x4001), id="a large frame"),
        pytest.param(b"\x00\x40\x00\x01\x00\x00\x00\x00\x01" + bytes(0x4000) +
                     (b"\x00\x40\x00\x09\x00\x00\x00\x00\x01" + bytes(0x4000)) * 70,
                     id="an endless head"),
    ],
)  # fmt: skip
def test_not_http2(here: Localhost, frames: bytes) -> None:
    """What is no HTTP/2, or more of it than we take, ends the connection with an error."""

    async def speaking(conversation: Conversation) -> None:
        conversation.writer.write(frames)
        await conversation.hang()

    async def scenario() -> None:
        async with upstream_of(here, speaking) as upstream, transport(here) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="HTTP/2"):
                await exchange(client, upstream.base_url)
            await until(lambda: client.connections == 0)

    asyncio.run(scenario())


def test_head_too_large(here: Localhost) -> None:
    """Headers that unpack to more than 64 KiB end the connection."""

    async def boasting(conversation: Conversation) -> None:
        await conversation.head(**{f"x{number}": "y" * 8000 for number in range(9)})

    async def scenario() -> None:
        async with upstream_of(here, boasting) as upstream, transport(here) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="HTTP/2"):
                await exchange(client, upstream.base_url)

    asyncio.run(scenario())


def test_server_without_http2(here: Localhost) -> None:
    """A server that does not choose HTTP/2 is asked over HTTP/1.1, after one look."""

    async def scenario() -> None:
        server = FakeUpstream(answer("yes"), tls=here.server())
        async with server as upstream, transport(here) as client:
            url = upstream.base_url.replace("http://127.0.0.1", "https://localhost")
            for _ in range(3):
                response = await client.handle_async_request(post(url))
                assert response.extensions["http_version"] == b"HTTP/1.1"
                await response.aread()
                await response.aclose()
            assert upstream.connections == 2  # the look, and one kept alive

    asyncio.run(scenario())


def test_untrusted(here: Localhost) -> None:
    """A certificate that nobody vouches for is no connection."""

    async def scenario() -> None:
        wary = Http2Transport(
            offers_http2(ssl.create_default_context()),
            Http1Transport(ssl.create_default_context()),
        )
        async with upstream_of(here, answer("yes")) as upstream:
            with pytest.raises(httpx.ConnectError) as caught:
                await exchange(wary, upstream.base_url)
            assert isinstance(caught.value.__cause__, ssl.SSLError)
            await wary.aclose()

    asyncio.run(scenario())


def test_one_who_gives_up_connecting(here: Localhost) -> None:
    """A connection in the making belongs to all who wait for it: one may leave."""

    async def scenario() -> None:
        async with upstream_of(here, says(b"ok")) as upstream, transport(here) as client:
            first = asyncio.create_task(exchange(client, upstream.base_url))
            second = asyncio.create_task(exchange(client, upstream.base_url))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == (200, b"ok")
            assert upstream.connections == 1
            assert first.cancelled()

    asyncio.run(scenario())


def test_a_server_of_others(here: Localhost) -> None:
    """hypercorn: a hundred answers, a stream, and a cancel that its application hears of."""
    left = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/endless":
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            return
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body", "body": scope["http_version"].encode()})

    async def scenario() -> None:
        config = hypercorn.config.Config()
        config.certfile, config.keyfile = str(here.certificate), str(here.key)
        config.alpn_protocols = ["h2"]
        config.loglevel = "ERROR"
        listening = socket.create_server(("127.0.0.1", 0))
        config.bind = [f"fd://{listening.fileno()}"]
        url = f"https://localhost:{listening.getsockname()[1]}"
        stop = asyncio.Event()
        server = asyncio.create_task(
            hypercorn.asyncio.serve(application, config, shutdown_trigger=stop.wait)
        )
        async with transport(here) as client:
            asked = [exchange(client, url + "/") for _ in range(100)]
            assert await asyncio.gather(*asked) == [(200, b"partpartpart2")] * 100
            assert client.connections == 1
            response = await client.handle_async_request(post(url + "/endless"))
            assert await anext(aiter(response.stream)) == b"one"
            await response.aclose()
            await asyncio.wait_for(left.wait(), 10)
            assert await exchange(client, url + "/") == (200, b"partpartpart2")
        stop.set()
        await server
        listening.detach()  # hypercorn has closed it

    asyncio.run(scenario())


def test_nobody_waits_for_a_failure() -> None:
    """A connection that cannot be made, and that nobody wants any more, leaves no complaint."""
    complaints: list[Any] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
        tls = ssl.create_default_context()
        client = Http2Transport(offers_http2(tls), Http1Transport(tls))
        asked = asyncio.create_task(exchange(client, f"https://127.0.0.1:{unused_port()}/"))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        with pytest.raises(httpx.ConnectError):
            await exchange(client, f"https://127.0.0.1:{unused_port()}/")
        await client.aclose()

    asyncio.run(scenario())
    gc.collect()
    assert complaints == []


def test_given_up_in_silence(here: Localhost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives up on a connection that has been silent too long takes it out of use."""
    monkeypatch.setattr(http2_connection, "SILENT_S", 0.0)

    async def scenario() -> None:
        async with upstream_of(here, hang, says(b"ok")) as upstream, transport(here) as client:
            work = asyncio.create_task(exchange(client, upstream.base_url))
            await until(lambda: upstream.requests)
            work.cancel()
            await asyncio.wait({work})
            assert await exchange(client, upstream.base_url) == (200, b"ok")
            assert upstream.connections == 2
            await until(lambda: upstream.resets == [ErrorCodes.CANCEL])

    asyncio.run(scenario())


# As a backend, and through a gateway.


def request() -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="auto",
        stream=True,
        body={"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
    )


def through_backend(
    here: Localhost, *scripts: Script, **options: Any
) -> tuple[str, TandemError | None, Http2Upstream]:
    """The text that came, and the error that ended it."""

    async def scenario() -> tuple[str, TandemError | None, Http2Upstream]:
        async with upstream_of(here, *scripts) as upstream, transport(here) as client:
            chosen = OpenAIOptions(
                kind="vllm", model="m", base_url=upstream.base_url, http2=True, **options
            )
            backend = OpenAIBackend("box", chosen, Resources(transport=lambda: client))
            events: list[Event] = []
            error: TandemError | None = None
            try:
                async for event in backend.stream(request(), Call(id="r")):
                    events.append(event)  # noqa: PERF401 - what came before an error is wanted
            except TandemError as raised:
                error = raised
            if isinstance(error, UpstreamTimeout):
                await until(lambda: upstream.resets)
            text = "".join(event.text for event in events if isinstance(event, TextDelta))
            return text, error, upstream

    return asyncio.run(scenario())


GOOD = sse(role(), chunk("hé"), finish(), usage(2, 1), DONE)


async def cut(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk("one"))
    await asyncio.sleep(0.05)  # let it be read before the reset discards it
    conversation.reset()


async def reset_midway(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk("one"))
    await h2(conversation).refuse(ErrorCodes.INTERNAL_ERROR)


async def close(conversation: Conversation) -> None:
    conversation.writer.close()


async def refuse(conversation: Conversation) -> None:
    await h2(conversation).refuse()


def test_backend_streams(here: Localhost) -> None:
    """A stream of an OpenAI backend arrives whole, and nothing was reset at its end."""
    text, error, upstream = through_backend(here, GOOD)
    assert (text, error, upstream.resets) == ("hé", None, [])


@pytest.mark.parametrize("fault", [cut, reset_midway])
def test_cut_midway(here: Localhost, fault: Script) -> None:
    """A connection cut or a stream reset in an answer is a broken answer, after what had come."""
    text, error, _ = through_backend(here, fault)
    assert text == "one"
    assert isinstance(error, UpstreamBroken)
    assert error.outcome == "truncated"


@pytest.mark.parametrize("fault", [close, refuse])
def test_asked_once_more(here: Localhost, fault: Script) -> None:
    """What was closed or refused before an answer is asked once more, on a fresh connection."""
    text, error, upstream = through_backend(here, fault, GOOD)
    assert (text, error, len(upstream.requests), upstream.connections) == ("hé", None, 2, 2)
    _, error, upstream = through_backend(here, fault)
    assert isinstance(error, UpstreamUnreachable)
    assert len(upstream.requests) == 2


def test_silent(here: Localhost) -> None:
    """The clock of the first content runs, and its end resets the stream."""
    _, error, upstream = through_backend(here, hang, timeouts={"first_content": 0.2})
    assert isinstance(error, UpstreamTimeout)
    assert upstream.resets == [ErrorCodes.CANCEL]


@pytest.fixture
def trusted(here: Localhost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Localhost]:
    """Every upstream of this test is verified against our certificate."""
    monkeypatch.setattr(certifi, "where", lambda: str(here.certificate))
    for made in (http_module._tls, http_module._tls_http2):
        made.cache_clear()
    yield here
    for made in (http_module._tls, http_module._tls_http2):
        made.cache_clear()


CONFIG = """
upstreams:
  box: {{kind: openai, base_url: "{url}", model: m, http2: true, price: {{flat: true}}}}
"""
ASK = {"model": "box", "messages": [{"role": "user", "content": "hi"}]}


def test_through_a_gateway(trusted: Localhost) -> None:
    """`http2: true` in the YAML: JSON and streams through a gateway, one connection upstream."""

    async def either(conversation: Conversation) -> None:
        seen = conversation.request
        if seen.method == "GET":
            await reply(200, {"object": "list", "data": [{"id": "m"}]})(conversation)
        else:
            await (GOOD if seen.json.get("stream") else answer("hé"))(conversation)

    async def scenario() -> None:
        async with (
            upstream_of(trusted, either) as upstream,
            running(CONFIG.format(url=upstream.base_url)) as gateway,
        ):
            whole = await gateway.http.post("/v1/chat/completions", json=ASK)
            assert whole.json()["choices"][0]["message"]["content"] == "hé"
            streamed = [
                gateway.http.post("/v1/chat/completions", json={**ASK, "stream": True})
                for _ in range(8)
            ]
            for each in await asyncio.gather(*streamed):
                assert each.text.endswith("data: [DONE]\n\n")
                assert '"content":"h\\u00e9"' in each.text
            posted = [seen for seen in upstream.requests if seen.method == "POST"]
            assert (len(posted), upstream.connections) == (9, 1)

    asyncio.run(scenario())


def test_client_leaves_a_gateway(trusted: Localhost) -> None:
    """A client that disconnects midway has its upstream's stream reset: nobody pays for it."""

    async def endless(conversation: Conversation) -> None:
        await conversation.stream_head()
        while True:
            await conversation.chunk(chunk("x"))
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with (
            upstream_of(trusted, endless) as upstream,
            running(CONFIG.format(url=upstream.base_url)) as gateway,
        ):
            asked = gateway.http.stream(
                "POST", "/v1/chat/completions", json={**ASK, "stream": True}
            )
            async with asked as reply:
                await anext(reply.aiter_bytes())
            await until(lambda: upstream.resets)
            assert upstream.resets == [ErrorCodes.CANCEL]

    asyncio.run(scenario())


def test_only_over_tls() -> None:
    """http2 without https is refused, with the upstream's line."""
    with pytest.raises(ConfigError, match="4:.*box: http2 needs .* https://"):
        loads(
            """
upstreams:
  cloud: {kind: groq, model: m, http2: true}
  box: {kind: vllm, base_url: "http://box:8000", http2: true}
""",
            env={},
        )
