"""Row 31: how many connections one address may hold, on the connection class that we run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from gateway.listen import HOT
from gateway.surface import Limits, guarded

GET = b"GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def own_address() -> str | None:
    """An address of this machine that is not loopback. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # of TEST-NET-3: for documentation only
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


ADDRESS = own_address()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers; /held does so until its client has left."""
    held = scope["path"] == "/held"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": held})
    while held and (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def listening(address: str, limits: Limits) -> AsyncIterator[int]:
    """The port of our connection class at `address`."""
    with socket.create_server((address, 0)) as listener:
        config = uvicorn.Config(
            app, http=guarded(HOT, limits), lifespan="off", log_config=None
        )  # fmt: skip
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await running


@pytest.mark.skipif(ADDRESS is None, reason="this machine has no address beyond loopback")
def test_row_31_one_address_has_its_share() -> None:
    """An address with as many connections as it may have gets 503 for one more, and is served
    again once one is gone. Loopback, where a proxy may stand for many clients, is not counted.
    """
    address = str(ADDRESS)

    async def scenario() -> None:
        async with listening(address, Limits(per_address=2)) as port:

            async def ask(source: str, path: bytes) -> tuple[bytes, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(
                    address, port, local_addr=(source, 0)
                )
                writers.append(writer)
                writer.write(GET % path)
                return (await reader.readline()).split()[1], writer

            async def status(source: str) -> bytes:
                got, writer = await ask(source, b"/")
                writer.close()
                return got

            writers: list[asyncio.StreamWriter] = []
            try:
                # Answered by now, and so not idle: none of them goes for a new one.
                holding = [await ask(address, b"/held") for _ in range(2)]
                assert [got for got, _ in holding] == [b"200"] * 2
                assert await status(address) == b"503"
                around = [await ask("127.0.0.1", b"/held") for _ in range(3)]
                assert [got for got, _ in around] == [b"200"] * 3
                assert await status(address) == b"503"
                holding[0][1].close()
                while await status(address) != b"200":
                    await asyncio.sleep(0.01)
            finally:
                for writer in writers:
                    writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
