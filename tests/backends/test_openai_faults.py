"""OpenAIBackend against an upstream that misbehaves on a real socket: operations.md 2.4, rows 1-18.

Timeouts are small so that the tests are quick; what is asserted is which error comes, and when in
the order of events, never how many milliseconds it took.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from backends.base import Resources
from backends.http1 import Http1Transport
from backends.http2 import Http2Transport, offers_http2
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import (
    LocalUnavailable,
    TandemError,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.core.events import Document, Event, Finish, TextDelta, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Zone
from tests.fakes.http2_upstream import Http2Upstream
from tests.fakes.ports import full_backlog, unused_port
from tests.fakes.tls import Localhost, localhost
from tests.fakes.upstream import (
    DONE,
    Conversation,
    FakeUpstream,
    Script,
    answer,
    chunk,
    data,
    finish,
    reply,
    role,
    sse,
    usage,
)

QUICK = {"connect": 1.0, "first_content": 0.3, "idle": 0.3, "document": 0.3}
PATIENT = {"connect": 5.0, "first_content": 30.0, "idle": 30.0, "document": 30.0}


def request(stream: bool = True) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="auto",
        stream=stream,
        body={"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
    )


class Wire:
    """What the upstreams of a test are spoken to over: HTTP/2 if there is a certificate for it."""

    def __init__(self) -> None:
        self.tls: Localhost | None = None

    def upstream(self, *scripts: Script) -> FakeUpstream:
        if self.tls is None:
            return FakeUpstream(*scripts)
        return Http2Upstream(*scripts, tls=self.tls.server("h2"))

    def resources(self) -> Resources:
        if (tls := self.tls) is None:
            return Resources()
        return Resources(
            transport=lambda: Http2Transport(
                offers_http2(tls.client()), Http1Transport(tls.client())
            )
        )


WIRE = Wire()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Localhost:
    return localhost(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True, params=["HTTP/1.1", "HTTP/2"])
def over(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs on both wires."""
    if request.param == "HTTP/2":
        WIRE.tls = request.getfixturevalue("certificate")
    yield
    WIRE.tls = None


def backend(base_url: str, **options: Any) -> OpenAIBackend:
    options = {"kind": "vllm", "model": "m", "timeouts": PATIENT, **options}
    return OpenAIBackend("box", OpenAIOptions(base_url=base_url, **options), WIRE.resources())


async def collect(
    upstream: OpenAIBackend, asked: ChatRequest, call: Call
) -> tuple[list[Event], TandemError | None]:
    """Everything that came, and the error that ended it."""
    events: list[Event] = []
    try:
        async for event in upstream.stream(asked, call):
            events.append(event)  # noqa: PERF401 - what came before an error is wanted
    except TandemError as error:
        return events, error
    return events, None


def run(
    *scripts: Script, stream: bool = True, deadline_s: float | None = None, **options: Any
) -> tuple[list[Event], TandemError | None, FakeUpstream]:
    async def scenario() -> tuple[list[Event], TandemError | None, FakeUpstream]:
        async with WIRE.upstream(*scripts) as fake:
            upstream = backend(fake.base_url, **options)
            deadline = None if deadline_s is None else time.monotonic() + deadline_s
            try:
                asked = request(stream)
                events, error = await collect(upstream, asked, Call(id="r", deadline=deadline))
            finally:
                await upstream.aclose()
            return events, error, fake

    return asyncio.run(scenario())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def streaming(*steps: bytes | Callable[[Conversation], Awaitable[None]]) -> Script:
    """A stream of chunks and then whatever goes wrong."""

    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for step in steps:
            if isinstance(step, bytes):
                await conversation.chunk(step)
            else:
                await step(conversation)

    return script


async def hang(conversation: Conversation) -> None:
    await conversation.hang()


async def reset(conversation: Conversation) -> None:
    conversation.reset()


async def close(conversation: Conversation) -> None:
    conversation.writer.close()


def test_well_behaved() -> None:
    """A stream that does everything right arrives whole, and its connection is used again."""

    async def scenario() -> None:
        async with WIRE.upstream(sse(role(), chunk("hé"), finish(), usage(2, 1), DONE)) as fake:
            upstream = backend(fake.base_url)
            for _ in range(3):
                events, error = await collect(upstream, request(), Call(id="r"))
                assert error is None
                assert text_of(events) == "hé"
            await upstream.aclose()
            assert (len(fake.requests), fake.connections) == (3, 1)
            assert fake.requests[0].path == "/v1/chat/completions"
            assert fake.requests[0].json["stream_options"] == {"include_usage": True}

    asyncio.run(scenario())


def test_row_01_refused() -> None:
    """Nobody listens: unreachable at once, and another candidate may serve."""

    async def scenario() -> None:
        upstream = backend(f"http://127.0.0.1:{unused_port()}/v1")
        _, error = await collect(upstream, request(), Call(id="r"))
        await upstream.aclose()
        assert isinstance(error, UpstreamUnreachable)
        assert error.retryable
        assert "refused" in error.message

    asyncio.run(scenario())


def test_row_02_connect_hangs() -> None:
    """A connection that is never accepted ends at the connect timeout."""

    async def scenario() -> None:
        with full_backlog() as port:
            upstream = backend(f"http://127.0.0.1:{port}/v1", timeouts={**PATIENT, "connect": 0.2})
            _, error = await collect(upstream, request(), Call(id="r"))
            await upstream.aclose()
        assert isinstance(error, UpstreamTimeout)
        assert "no connection" in error.message

    asyncio.run(scenario())


def test_row_03_name_does_not_resolve() -> None:
    """An unknown name is unreachable, and says so."""

    async def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def scenario() -> None:
        asyncio.get_running_loop().getaddrinfo = unknown  # type: ignore[method-assign]
        upstream = backend("http://gpu-box.example/v1")
        _, error = await collect(upstream, request(), Call(id="r"))
        await upstream.aclose()
        assert isinstance(error, UpstreamUnreachable)
        assert "name cannot be resolved" in error.message

    asyncio.run(scenario())


def test_row_04_tls_fails() -> None:
    """A server that answers a TLS greeting in plain text is unreachable, and says why."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            upstream = backend(f"https://127.0.0.1:{port}/v1")
            _, error = await collect(upstream, request(), Call(id="r"))
            await upstream.aclose()
        assert isinstance(error, UpstreamUnreachable)
        assert "TLS" in error.message

    asyncio.run(scenario())


def test_row_05_closed_before_an_answer_once() -> None:
    """A connection closed before a byte of answer is tried once more, and only once."""
    events, error, fake = run(close, sse(chunk("hi"), finish(), DONE))
    assert (text_of(events), error, len(fake.requests)) == ("hi", None, 2)
    events, error, fake = run(close)
    assert isinstance(error, UpstreamUnreachable)
    assert len(fake.requests) == 2


def test_row_06_headers_never_arrive() -> None:
    """Silence after the request ends at the first-content timeout."""
    events, error, fake = run(hang, timeouts=QUICK)
    assert events == []
    assert isinstance(error, UpstreamTimeout)
    assert error.status == 504
    assert len(fake.requests) == 1


async def drip(conversation: Conversation) -> None:
    """Comments and empty deltas for ever: alive, but saying nothing."""
    while True:
        await conversation.chunk(b": still here\n\n" + chunk(""))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("silence", [hang, drip])
def test_row_07_silence_before_content(silence: Script) -> None:
    """Headers, the role chunk, comments and empty deltas are no first content."""
    events, error, _ = run(streaming(role(), silence), timeouts=QUICK)
    assert not [event for event in events if is_content(event)]
    assert isinstance(error, UpstreamTimeout)
    assert "no content" in error.message


@pytest.mark.parametrize("silence", [hang, drip])
def test_row_08_silence_after_content(silence: Script) -> None:
    """Comments and empty deltas do not keep a stalled answer alive."""
    events, error, _ = run(streaming(chunk("one"), silence), timeouts=QUICK)
    assert text_of(events) == "one"
    assert isinstance(error, UpstreamTimeout)
    assert "no further content" in error.message


def test_deadline_is_total() -> None:
    """A stream that never pauses ends at the request's deadline all the same."""

    async def forever(conversation: Conversation) -> None:
        while True:
            await conversation.chunk(chunk("x"))
            await asyncio.sleep(0.01)

    events, error, _ = run(streaming(forever), deadline_s=0.3)
    assert text_of(events)
    assert isinstance(error, UpstreamTimeout)
    assert "deadline" in error.message


def test_slow_reader_is_not_the_upstreams_fault() -> None:
    """Time that our own reader takes does not count as the upstream's silence."""

    async def scenario() -> None:
        async with WIRE.upstream(sse(chunk("a"), chunk("b"), finish(), DONE)) as fake:
            upstream = backend(fake.base_url, timeouts={**QUICK, "idle": 0.2})
            text = ""
            async with aclosing(upstream.stream(request(), Call(id="r"))) as events:
                async for event in events:
                    text += event.text if isinstance(event, TextDelta) else ""
                    await asyncio.sleep(0.25)  # longer than the idle limit
            await upstream.aclose()
            assert text == "ab"

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [reset, close])
def test_row_09_10_connection_lost_midway(fault: Script) -> None:
    """A reset or a cut chunked body is a broken answer, after what had come."""

    async def settle(conversation: Conversation) -> None:
        await asyncio.sleep(0.05)  # let the first chunk be read before a reset discards it

    events, error, _ = run(streaming(chunk("one"), settle, fault))
    assert text_of(events) == "one"
    assert isinstance(error, UpstreamBroken)
    assert error.outcome == "truncated"


def until_close(*frames: bytes) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.head(content_type="text/event-stream", connection="close")
        for frame in frames:
            await conversation.raw(frame)

    return script


def test_row_11_silent_truncation() -> None:
    """An end that HTTP cannot tell from a cut needs a finish or [DONE]."""
    events, error, _ = run(until_close(chunk("one")))
    assert text_of(events) == "one"
    assert isinstance(error, UpstreamBroken)
    assert run(until_close(chunk("one"), finish()))[1] is None
    assert run(until_close(chunk("one"), DONE))[1] is None
    assert run(until_close(chunk("one"), DONE.rstrip()))[1] is None
    assert isinstance(run(until_close())[1], UpstreamBroken)


def test_half_a_choice_is_truncated() -> None:
    """With two choices begun and one finished, an end without [DONE] is a cut."""
    other = data({"choices": [{"index": 1, "delta": {"content": "b"}}]})
    assert isinstance(run(until_close(chunk("a"), other, finish()))[1], UpstreamBroken)


@pytest.mark.parametrize("bad", [b"data: {oops\n\n", b"data: []\n\n", b'data: {"a":"\xff"}\n\n'])
def test_row_12_malformed_event(bad: bytes) -> None:
    """A malformed event ends the answer, and none of its bytes are relayed."""
    events, error, _ = run(streaming(chunk("one"), bad, chunk("two"), hang))
    assert text_of(events) == "one"
    assert isinstance(error, UpstreamBroken)
    assert "malformed" in error.message


def test_error_inside_a_stream() -> None:
    """An error in the middle of a stream is raised, not relayed."""
    events, error, _ = run(sse(chunk("one"), data({"error": {"message": "out of memory"}}), DONE))
    assert text_of(events) == "one"
    assert isinstance(error, UpstreamFailed)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("seed", range(4))
def test_row_13_any_cut_of_a_stream(ending: bytes, seed: int) -> None:
    """Cut inside UTF-8, line endings and events, the frames are the upstream's bytes."""
    frames = [role(), chunk("naïve 😀"), b": ping\n\n", chunk("日本"), finish(), usage(2, 9)]
    stream = b"".join(frames).replace(b"\n", ending)
    cuts = sorted(random.Random(seed).sample(range(1, len(stream)), 40))
    edges = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    events, error, _ = run(sse(*parts, DONE))
    assert error is None
    assert text_of(events) == "naïve 😀日本"
    assert b"".join(event.frame or b"" for event in events) == b"".join(
        frame.replace(b"\n", ending) for frame in frames if not frame.startswith(b":")
    )


def test_row_14_endless_line() -> None:
    """A line without end is refused at the cap, and the connection closed."""

    async def endless(conversation: Conversation) -> None:
        while True:
            await conversation.chunk(b"data: " + b"x" * 8192)

    async def scenario() -> None:
        async with WIRE.upstream(streaming(chunk("one"), endless)) as fake:
            upstream = backend(fake.base_url, max_event_bytes=64 * 1024)
            events, error = await collect(upstream, request(), Call(id="r"))
            assert text_of(events) == "one"
            assert isinstance(error, UpstreamBroken)
            assert error.code == "upstream_too_large"
            await asyncio.wait_for(fake.hung_up.wait(), 5)
            await upstream.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [True, False])
def test_row_15_compression_unasked(stream: bool) -> None:
    """A compressed answer was not asked for and is not decoded, however small it looks."""

    async def bomb(conversation: Conversation) -> None:
        body = gzip.compress(b" " * 10_000_000)
        media_type = "text/event-stream" if stream else "application/json"
        await conversation.head(content_type=media_type, content_encoding="gzip")
        await conversation.raw(body)

    events, error, fake = run(bomb, stream=stream)
    assert fake.requests[0].headers["accept-encoding"] == "identity"
    assert events == []
    assert isinstance(error, UpstreamBroken)
    assert "compressed" in error.message


def test_row_16_huge_document() -> None:
    """A whole answer beyond the cap is `upstream_too_large`."""
    _, error, _ = run(answer("x" * 50_000), stream=False, max_body_bytes=10_000)
    assert isinstance(error, UpstreamBroken)
    assert (error.status, error.code) == (502, "upstream_too_large")


@pytest.mark.parametrize("stream", [True, False])
def test_row_17_html_under_200(stream: bool) -> None:
    """A login page is not an answer."""

    async def page(conversation: Conversation) -> None:
        await conversation.head(content_type="text/html", connection="close")
        await conversation.raw(b"<html>hello</html>")

    _, error, _ = run(page, stream=stream)
    assert isinstance(error, UpstreamBroken)
    assert "text/html" in error.message


@pytest.mark.parametrize("stream", [True, False])
def test_row_17_json_error_under_200(stream: bool) -> None:
    """An error document under 200 is an error."""
    _, error, _ = run(reply(200, {"error": {"message": "no capacity"}}), stream=stream)
    assert isinstance(error, UpstreamFailed)


def test_document_instead_of_a_stream() -> None:
    """A server that ignores `stream` is broken, not misread."""
    _, error, _ = run(answer("hi"))
    assert isinstance(error, UpstreamBroken)


@pytest.mark.parametrize("document", [[], {}, {"choices": []}, "hi"])
def test_malformed_document(document: Any) -> None:
    """A whole answer without choices is broken."""
    _, error, _ = run(reply(200, document), stream=False)
    assert isinstance(error, UpstreamBroken)


def test_row_18_redirect() -> None:
    """A redirect is never followed, not even to the same host."""

    async def moved(conversation: Conversation) -> None:
        target = f"http://{conversation.request.headers.get('host', 'localhost')}/v1/elsewhere"
        await conversation.head(307, location=target, content_length="0")
        conversation.keep_alive = True

    _, error, fake = run(moved)
    assert isinstance(error, UpstreamBroken)
    assert error.code == "upstream_redirect"
    assert len(fake.requests) == 1


def test_row_19_overload_is_not_retried_here() -> None:
    """A 429 carries when to come back; trying again is the pipeline's decision."""
    _, error, fake = run(reply(429, {"error": {"message": "slow down"}}, retry_after_ms="1500"))
    assert isinstance(error, UpstreamOverloaded)
    assert error.retry_after == 1.5
    assert len(fake.requests) == 1


def test_error_body_that_never_ends() -> None:
    """An error status is told even if its body is endless."""

    async def endless(conversation: Conversation) -> None:
        await conversation.head(503, content_type="text/plain", connection="close")
        while True:
            await conversation.raw(b"x" * 8192)

    _, error, _ = run(endless)
    assert isinstance(error, UpstreamFailed)


def test_whole_answer() -> None:
    """A whole answer arrives as one document, whatever the pace."""
    events, error, _ = run(answer("hi"), stream=False)
    assert error is None
    [document] = events
    assert isinstance(document, Document)
    assert json.loads(document.frame or b"")["choices"][0]["message"]["content"] == "hi"


def test_slow_whole_answer() -> None:
    """A whole answer has its own limit, since its headers wait for its last token."""
    _, error, _ = run(hang, stream=False, timeouts={**QUICK, "first_content": 30.0})
    assert isinstance(error, UpstreamTimeout)


@pytest.mark.parametrize("after", [0, 1])
def test_row_29_cancelling_hangs_up(after: int) -> None:
    """A client that leaves, before or within an answer, closes the upstream's socket."""

    async def scenario() -> None:
        content = [chunk("one")] * after
        async with WIRE.upstream(streaming(role(), *content, hang)) as fake:
            upstream = backend(fake.base_url)
            events = upstream.stream(request(), Call(id="r"))
            for _ in range(1 + after):
                await anext(events)
            await events.aclose()
            await asyncio.wait_for(fake.hung_up.wait(), 5)
            await upstream.aclose()

    asyncio.run(scenario())


def test_cancelled_task_hangs_up() -> None:
    """Cancelling the task that waits for the upstream closes its socket too."""

    async def scenario() -> None:
        async with WIRE.upstream(hang) as fake:
            upstream = backend(fake.base_url)
            task = asyncio.create_task(collect(upstream, request(), Call(id="r")))
            while not fake.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(fake.hung_up.wait(), 5)
            await upstream.aclose()

    asyncio.run(scenario())


def test_end_is_not_waited_for() -> None:
    """After [DONE] the answer has ended, even if the upstream keeps the stream open."""
    events, error, _ = run(streaming(chunk("hi"), finish(), DONE, hang))
    assert error is None
    assert [type(event) for event in events] == [TextDelta, Finish]


def test_nothing_after_done() -> None:
    """What an upstream adds after [DONE] is nobody's answer."""
    events, error, _ = run(sse(chunk("hi"), finish(), DONE + chunk("more")))
    assert (text_of(events), error) == ("hi", None)


def test_outside_the_zone_no_connection_is_opened() -> None:
    """A request that must stay in the organisation opens no socket to a public upstream."""

    async def scenario() -> None:
        async with WIRE.upstream(answer("leak")) as fake:
            upstream = backend(fake.base_url, zone="public")
            call = Call(id="r", zone=Zone.ORGANISATION)
            _, error = await collect(upstream, request(), call)
            await upstream.aclose()
            assert isinstance(error, LocalUnavailable)
            assert fake.connections == 0

    asyncio.run(scenario())


def test_environment_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment does not get what goes to an upstream."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    events, error, _ = run(sse(chunk("hi"), finish(), DONE))
    assert (text_of(events), error) == ("hi", None)
