"""Our HTTP/1.1 client against sockets that answer byte by byte what a test wants."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from backends.http1 import FRESH, Http1Transport
from backends.http1_connection import HIGH_WATER, MAX_HEAD
from tests.fakes.tls import localhost
from tests.fakes.upstream import Conversation, FakeUpstream, answer

ONE_READ = 256 * 1024
"""What one read of the event loop may hold."""


@asynccontextmanager
async def transport(tls: ssl.SSLContext | None = None) -> AsyncIterator[Http1Transport]:
    made = Http1Transport(tls or ssl.create_default_context())
    try:
        yield made
    finally:
        await made.aclose()


def post(url: str, body: bytes = b"{}", **extensions: object) -> httpx.Request:
    return httpx.Request("POST", url, content=body, extensions=dict(extensions))


async def exchange(client: Http1Transport, url: str) -> tuple[int, bytes]:
    response = await client.handle_async_request(post(url))
    try:
        return response.status_code, await response.aread()
    finally:
        await response.aclose()


def says(raw: bytes) -> Callable[[Conversation], Awaitable[None]]:
    """These bytes, and then the end of the connection."""

    async def script(conversation: Conversation) -> None:
        for at in range(len(raw)):
            conversation.writer.write(raw[at : at + 1])
            if at % 7 == 0:
                await conversation.writer.drain()
                await asyncio.sleep(0)

    return script


GOOD = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\n"
    b"llo\r\n0\r\ntrailer: yes\r\n\r\n",
    "until closed": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "old": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "hints": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD.keys())
def test_framings(raw: bytes) -> None:
    """A body is read whole however it is delimited, and however its bytes arrive."""

    async def scenario() -> None:
        async with FakeUpstream(says(raw)) as upstream, transport() as client:
            assert await exchange(client, upstream.base_url) == (200, b"hello")

    asyncio.run(scenario())


BAD = {
    "cut length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    "cut chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "cut head": b"HTTP/1.1 200 OK\r\nContent-",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_what_is_no_answer(raw: bytes) -> None:
    """A cut or ambiguous answer is an httpx.TransportError, never a shorter body."""

    async def scenario() -> None:
        async with FakeUpstream(says(raw)) as upstream, transport() as client:
            with pytest.raises(httpx.TransportError):
                await exchange(client, upstream.base_url)

    asyncio.run(scenario())


def test_endless_head() -> None:
    """A head without end is given up at its cap, and the connection closed."""

    async def endless(conversation: Conversation) -> None:
        await conversation.raw(b"HTTP/1.1 200 OK\r\n")
        while True:
            await conversation.raw(b"x-more: " + b"y" * 1000 + b"\r\n")

    async def scenario() -> None:
        async with FakeUpstream(endless) as upstream, transport() as client:
            with pytest.raises(httpx.RemoteProtocolError, match="endless"):
                await exchange(client, upstream.base_url)
            await asyncio.wait_for(upstream.hung_up.wait(), 5)

    assert MAX_HEAD < 1 << 20
    asyncio.run(scenario())


def test_kept_alive() -> None:
    """Requests one after the other share a connection; FRESH takes a new one."""

    async def scenario() -> None:
        async with FakeUpstream(answer("yes")) as upstream, transport() as client:
            for _ in range(3):
                assert (await exchange(client, upstream.base_url))[0] == 200
            assert upstream.connections == 1
            fresh = await client.handle_async_request(post(upstream.base_url, **{FRESH: True}))
            await fresh.aread()
            assert upstream.connections == 2

    asyncio.run(scenario())


def test_closed_while_idle() -> None:
    """A connection that the upstream closed while it was idle is not used again."""

    async def once(conversation: Conversation) -> None:
        await conversation.head(content_length="2")
        await conversation.raw(b"ok")

    async def scenario() -> None:
        async with FakeUpstream(once) as upstream, transport() as client:
            assert await exchange(client, upstream.base_url) == (200, b"ok")
            while client.idle:  # until the close has arrived
                await asyncio.sleep(0.001)
            assert await exchange(client, upstream.base_url) == (200, b"ok")
            assert upstream.connections == 2

    asyncio.run(scenario())


def test_more_than_its_answer() -> None:
    """An answer that nobody asked for closes its connection instead of meeting the next request."""

    async def eager(conversation: Conversation) -> None:
        reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
        await conversation.raw(reply + b"ok" + reply + b"no")
        await conversation.hang()

    async def scenario() -> None:
        async with FakeUpstream(eager) as upstream, transport() as client:
            for _ in range(2):
                assert await exchange(client, upstream.base_url) == (200, b"ok")
                await asyncio.wait_for(upstream.hung_up.wait(), 5)
                upstream.hung_up.clear()
            assert upstream.connections == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in the body"])
def test_cancelled(begun: bool) -> None:
    """Whoever gives up waiting closes the connection, also while the upstream still thinks."""

    async def thinking(conversation: Conversation) -> None:
        if begun:
            await conversation.stream_head()
        await conversation.hang()

    async def scenario() -> None:
        async with FakeUpstream(thinking) as upstream, transport() as client:
            work = asyncio.create_task(exchange(client, upstream.base_url))
            while not upstream.requests:
                await asyncio.sleep(0.001)
            work.cancel()
            await asyncio.wait({work})
            await asyncio.wait_for(upstream.hung_up.wait(), 5)

    asyncio.run(scenario())


def test_back_pressure() -> None:
    """A body that nobody reads stops at a bounded number of bytes, and goes on when it is read."""
    sent = 0

    async def gushing(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.stream_head()
        while True:
            await conversation.chunk(b"x" * 65536)
            sent += 65536

    async def settled() -> None:
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)

    async def scenario() -> None:
        async with FakeUpstream(gushing) as upstream, transport() as client:
            response = await client.handle_async_request(post(upstream.base_url))
            await settled()
            stopped = sent
            parts = aiter(response.stream)
            assert len(await anext(parts)) <= HIGH_WATER + ONE_READ
            while sent <= stopped:
                await anext(parts)
            await response.aclose()
            await asyncio.wait_for(upstream.hung_up.wait(), 5)

    asyncio.run(scenario())


def test_no_delay() -> None:
    """TCP_NODELAY is set: a small request is not held back for the last one's acknowledgement."""

    async def scenario() -> None:
        async with FakeUpstream(answer("yes")) as upstream, transport() as client:
            response = await client.handle_async_request(post(upstream.base_url))
            sock = response.extensions["network_stream"].get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await response.aread()

    asyncio.run(scenario())


def test_a_hundred_kilobytes() -> None:
    """A long prompt arrives as it was sent."""

    async def scenario() -> None:
        async with FakeUpstream(answer("yes")) as upstream, transport() as client:
            body = bytes(range(256)) * 4000
            response = await client.handle_async_request(post(upstream.base_url, body))
            await response.aread()
            assert upstream.requests[0].body == body

    asyncio.run(scenario())


def test_tls(tmp_path: Path) -> None:
    """An upstream is spoken to over TLS if its certificate is trusted, and else not at all."""
    here = localhost(tmp_path)
    ours, trusting = here.server(), here.client()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ours)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        async with server:
            async with transport(trusting) as client:
                for _ in range(2):
                    assert await exchange(client, url) == (200, b"ok")
            async with transport() as wary:
                with pytest.raises(httpx.ConnectError) as caught:
                    await exchange(wary, url)
                assert isinstance(caught.value.__cause__, ssl.SSLError)

    asyncio.run(scenario())
