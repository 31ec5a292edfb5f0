"""Rows 30, 31, 32 and 38: what a client may do to a connection, on the server that we run."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, answer, chunk, finish, reply, sse

PATH = "/v1/chat/completions"
CONFIG = """
server: {{{server}}}
upstreams: {{far: {{kind: openai, base_url: "{url}", api_key: "${{KEY}}", model: m}}}}
"""
NOBODY = "http://127.0.0.1:9/v1"
HEAD = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
ASK = json.dumps(
    {"model": "far", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
).encode()
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(ASK) + ASK


def config(url: str = NOBODY, server: str = "") -> str:
    return CONFIG.format(url=url, server=server)


async def told(at: Running, *parts: bytes, pause_s: float = 0.0) -> tuple[int, str]:
    """Status and error code of what comes back, once the other side has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(20):
            raw = await reader.read()
    finally:
        writer.close()
    head, _, rest = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)["error"]["code"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, None),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400, None),
        (HEAD.replace(b"host: localhost\r\n", b"") + b"content-length: 0\r\n\r\n", 400, "bad_host"),
        (HEAD + b"host: other\r\ncontent-length: 0\r\n\r\n", 400, "bad_host"),
        (HEAD.replace(b"\r\n", b"\n") + b"content-length: 0\n\n", 400, None),
        (HEAD + b"transfer-encoding: gzip\r\n\r\n", 400, None),
        (HEAD + b"x: y\r\n" * 120 + b"content-length: 0\r\n\r\n", 431, None),
        (b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 5_000_000, 431, None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, None),
    ],
)
def test_row_32_what_is_no_request(sent: bytes, status: int, code: str | None) -> None:
    """Two lengths, two or no hosts, bare line feeds, too many headers and megabytes of one: an
    error in OpenAI's shape, and the connection is closed.
    """

    async def scenario() -> None:
        async with running(config(), KEY="k") as at:
            got, why = await told(at, sent)
            assert got == status
            expected = {
                400: ("invalid_http",),
                431: ("headers_too_large",),
            }
            assert why in ((code,) if code else expected[got])

    asyncio.run(scenario())


UPGRADE = b"host: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /x HTTP/1.1\r\n" + UPGRADE + b"content-length: 2\r\n\r\n{}",
        b"GET /x HTTP/1.1\r\n" + UPGRADE + b"content-length: 2\r\n\r\n{}",
        b"GET /x HTTP/1.1\r\n" + UPGRADE + b"x: " + b"y" * 9000 + b"\r\n\r\n",
    ],
    ids=["a POST", "a body", "a long line"],
)
def test_row_31_an_upgrade_to_nothing(sent: bytes) -> None:
    """What asks for a WebSocket and is no handshake is told so, and holds no connection."""

    async def scenario() -> None:
        async with running(config(), KEY="k") as at:
            assert await told(at, sent) == (400, "invalid_http")

    asyncio.run(scenario())


def test_an_offer_of_http2_is_passed_over() -> None:
    """A request as Java's HttpClient sends its first, with `Upgrade: h2c`, is answered as it is,
    and so is the next one on its connection; a body that speaks of it is left alone.
    """
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"
    said = json.loads(ASK) | {"user": "\r\n\r\nupgrade: h2c\r\n"}
    body = json.dumps(said | {"stream": False}).encode()
    sent = HEAD + offer + b"content-length: %d\r\n\r\n" % len(body) + body

    async def scenario() -> None:
        async with (
            FakeUpstream(answer("one two")) as upstream,
            running(config(upstream.base_url), KEY="k") as at,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            for _ in range(2):
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                assert b"one two" in await reader.readexactly(int(length[1]))
            writer.close()
            posted = [each.json for each in upstream.requests if each.method == "POST"]
            assert [each["user"] for each in posted] == [said["user"]] * 2

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_row_32_a_body_beyond_its_length(caplog: pytest.LogCaptureFixture) -> None:
    """Who sends more than was announced is told so and nothing else: what comes for it then is
    nobody's, its place is free, and nothing fails in the log.
    """

    asked, told_off = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if conversation.request.method == "POST":
            asked.set()
            await told_off.wait()
            await sse(chunk("hi"), finish(), DONE)(conversation)
        else:
            await reply(404, {})(conversation)

    async def scenario() -> None:
        async with (
            FakeUpstream(script) as upstream,
            running(config(upstream.base_url), KEY="k") as at,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            writer.write(WHOLE)
            await asked.wait()
            writer.write(b"}}} GARBAGE\r\n\r\n")
            assert b'"code":"invalid_http"' in await reader.read()
            told_off.set()
            while at.gateway.admission.inside:
                await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert not [each for each in caplog.records if each.exc_info]


def test_two_zones_are_no_zone() -> None:
    """A header of ours that says two things is refused, whichever came last, and nobody is asked;
    so is one that a rule looks at.
    """
    rule = "{name: kept, when: {header.x-team: {eq: secret}}, locality: machine}"

    async def scenario() -> None:
        async with FakeUpstream(sse(chunk("hi"), finish(), DONE)) as upstream:
            ruled = config(upstream.base_url) + f"rules: [{rule}]\n"
            async with running(ruled, KEY="k") as at:
                for twice in (
                    b"x-tandem-zone: machine\r\nX-Tandem-Zone: public\r\n",
                    b"x-team: secret\r\nx-team: other\r\n",
                ):
                    more = twice + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(ASK)
                    assert await told(at, HEAD + more + ASK) == (400, "repeated_header")
                assert [each for each in upstream.requests if each.method == "POST"] == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD[:30]],
        [HEAD[at : at + 8] for at in range(0, 80, 8)],
        [HEAD + b"content-length: 100\r\n\r\n", b'{"model": '],
    ],
    ids=["half a head", "a head in drips", "half a body"],
)
def test_row_31_slow_heads_and_bodies(parts: list[bytes]) -> None:
    """A head that is not whole in time, however it drips, or a body that stops coming, is 408."""

    async def scenario() -> None:
        text = config(server="header_timeout: 600ms, body_timeout: 600ms")
        async with running(text, KEY="k") as at:
            assert await told(at, *parts, pause_s=0.2) == (408, "request_timeout")

    asyncio.run(scenario())


def test_row_31_a_slow_body_that_moves_is_served() -> None:
    """A body that keeps coming may take longer than the limit for standing still."""

    async def scenario() -> None:
        async with FakeUpstream(sse(chunk("hi"), finish(), DONE)) as upstream:
            text = config(upstream.base_url, server="body_timeout: 1s")
            async with running(text, KEY="k") as at:
                reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
                end = len(WHOLE) - len(ASK)
                writer.write(WHOLE[:end])
                for at_byte in range(end, len(WHOLE), 20):
                    await asyncio.sleep(0.3)
                    writer.write(WHOLE[at_byte : at_byte + 20])
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                writer.close()

    asyncio.run(scenario())


def test_row_31_connections_are_bounded() -> None:
    """With every place taken, the oldest idle connection goes for a new one; where none is idle,
    the new one is told so, and a place that is freed can be taken.
    """

    async def scenario() -> None:
        async def hang(conversation: Conversation) -> None:
            await conversation.stream_head()
            await conversation.chunk(chunk("once"))
            await conversation.hang()

        async with FakeUpstream(hang) as upstream:
            text = config(upstream.base_url, server="max_connections: 2")
            async with running(text, KEY="k") as at:
                idle = await asyncio.open_connection("127.0.0.1", at.port)
                idle[1].write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                await idle[0].readline()
                busy = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(2)]
                for _, writer in busy:
                    writer.write(WHOLE)
                async with asyncio.timeout(20):
                    await idle[0].read()
                for reader, _ in busy:
                    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                assert await told(at) == (503, "too_many_connections")
                busy[0][1].transport.abort()
                async with asyncio.timeout(20):
                    while at.gateway.inside > 1:
                        await asyncio.sleep(0.01)
                assert (await at.http.get("/livez")).status_code == 200
                for _, writer in (idle, *busy):
                    writer.close()

    asyncio.run(scenario())


def test_row_30_a_client_that_reads_nothing() -> None:
    """Its upstream is paused long before it has sent everything, its connection is dropped after
    the write timeout, and the upstream's with it.
    """
    sent = 0

    async def flood(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.stream_head()
        while True:
            await conversation.chunk(chunk("x" * 10_000))
            sent += 10_000

    async def scenario() -> None:
        async with FakeUpstream(flood) as upstream:
            text = config(upstream.base_url, server="write_timeout: 1s")
            async with running(text, KEY="k") as at:
                reader, writer = await asyncio.open_connection("127.0.0.1", at.port, limit=1024)
                writer.write(WHOLE)
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                async with asyncio.timeout(30):
                    while at.gateway.inside:
                        await asyncio.sleep(0.05)
                assert at.gateway.admission.inside == 0
                writer.close()

    asyncio.run(scenario())
    # What the kernel's buffers on both legs may hold; the gateway itself keeps well under 1 MB.
    assert sent < 40_000_000
