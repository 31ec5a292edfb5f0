"""The short way from socket to application, on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.asgi import GONE
from gateway.listen import HOT
from tests.fakes.serving import serving

PATH = sorted(HOT)[0]


def post(body: bytes = b"{}", version: str = "1.1", *headers: str) -> bytes:
    lines = [f"POST {PATH}?x=1 HTTP/{version}", "host: here", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The body, as one whole answer, or in chunks for a body that begins with `c`."""
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    headers = [(b"x-query", scope["query_string"])]
    if not body.startswith(b"c"):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if body.startswith(b"c"):
        for at in range(len(body)):
            part = body[at : at + 1]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body})


async def talk(base_url: str, sent: bytes) -> bytes:
    """What comes back until the other side closes."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    return answer


def test_whole_and_chunked() -> None:
    """Pipelined requests are answered in order; each part of a body is a chunk."""

    async def scenario() -> None:
        async with serving(echo) as base_url:
            asked = post(b"hello") + post(b"ch") + post(b"bye", "1.1", "connection: close")
            answer = await talk(base_url, asked)
        ok = b"HTTP/1.1 200 OK\r\nx-query: x=1\r\n"
        assert answer == (
            ok + b"content-length: 5\r\n\r\nhello"
            + ok + b"transfer-encoding: chunked\r\n\r\n"
            + b"1\r\nc\r\n1\r\nh\r\n0\r\n\r\n"
            + ok + b"content-length: 3\r\nconnection: close\r\n\r\nbye"
        )  # fmt: skip

    asyncio.run(scenario())


def test_long_body_and_continue() -> None:
    """A body longer than one read arrives whole; `100 Continue` is said to who waits for it."""

    async def scenario() -> None:
        async with serving(echo) as base_url:
            body = b"x" * 1_000_000
            headers = ("expect: 100-continue", "connection: close")
            answer = await talk(base_url, post(body, "1.1", *headers))
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert answer.endswith(body)

    asyncio.run(scenario())


def test_client_leaves() -> None:
    """Who has asked to be told hears at once that the client has gone, and hears it once."""
    told: list[str] = []

    async def scenario() -> None:
        gone, asked = asyncio.Event(), asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            scope[GONE](lambda: (told.append("gone"), gone.set()))
            asked.set()
            await gone.wait()
            assert (await receive())["type"] == "http.disconnect"

        async with serving(application) as base_url:
            host, _, port = base_url.removeprefix("http://").partition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(post())
            await asked.wait()
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(scenario())
    assert told == ["gone"]


def test_no_line_break_in_a_header() -> None:
    """A header of ours that would end its line early is never sent."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"x-tandem-route", b"a\r\nset-cookie: b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def scenario() -> None:
        async with serving(application) as base_url:
            assert b"set-cookie" not in await talk(base_url, post())

    asyncio.run(scenario())


def test_other_paths() -> None:
    """What is not a proxy path, or not a POST, takes the general way."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert GONE not in scope
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        async with serving(application) as base_url:
            for line in (f"GET {PATH} HTTP/1.1", "POST /elsewhere HTTP/1.1"):
                asked = f"{line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
                assert (await talk(base_url, asked)).startswith(b"HTTP/1.1 204")

    asyncio.run(scenario())
