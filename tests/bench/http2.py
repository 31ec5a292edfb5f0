"""CPU of asking an upstream over TLS: our HTTP/1.1, our HTTP/2 and httpx's, in one run.

    python tests/bench/http2.py

The server is a process of its own; what is counted is this one's CPU time, through the doors that
`HttpUpstream` uses. Needs openssl.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import uvloop

from backends.door import door, target
from backends.http1 import Http1Transport
from backends.http2 import Http2Transport, offers_http2
from tests.fakes.http2_upstream import Http2Upstream
from tests.fakes.tls import Localhost, localhost
from tests.fakes.upstream import Conversation, FakeUpstream, answer, chunk

ROUNDS = 3
CHUNKS = 64
PACE_S = 0.005
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 100 + b'"}]}'


async def either(conversation: Conversation) -> None:
    if conversation.request.path.endswith("/json"):
        await answer("yes " * 20)(conversation)
        return
    await conversation.stream_head()
    for _ in range(CHUNKS):
        await conversation.chunk(chunk("word "))
        await asyncio.sleep(PACE_S)
    await conversation.end()


async def serve(here: Localhost) -> None:
    async with (
        FakeUpstream(either, tls=here.server()) as http1,
        Http2Upstream(either, tls=here.server("h2")) as http2,
    ):
        print(http1.port, http2.port, flush=True)
        await asyncio.Event().wait()


async def microseconds(
    transport: httpx.AsyncBaseTransport, port: int, path: str, requests: int, at_once: int
) -> float:
    """CPU of one request, connections already made."""
    asked = door(transport, 5.0)
    headers = httpx.Headers(
        {
            "host": f"localhost:{port}",
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "tandem",
            "authorization": "Bearer " + "k" * 40,
        }
    )
    to = target("POST", httpx.URL(f"https://localhost:{port}/v1/{path}"), headers)

    async def ask(times: int) -> None:
        for _ in range(times):
            reply = await asked.ask(to, BODY)
            if reply.whole() is None:
                while await reply.read():
                    pass
            await reply.close()

    await asyncio.gather(*(ask(1) for _ in range(at_once)))
    before = time.process_time()
    await asyncio.gather(*(ask(requests // at_once) for _ in range(at_once)))
    return (time.process_time() - before) * 1e6 / requests


async def measure(here: Localhost, http1: int, http2: int) -> None:
    seen: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        sides: list[tuple[str, httpx.AsyncBaseTransport, int]] = [
            ("HTTP/1.1", Http1Transport(here.client()), http1),
            (
                "HTTP/2",
                Http2Transport(offers_http2(here.client()), Http1Transport(here.client())),
                http2,
            ),
            (
                "httpx HTTP/2",
                httpx.AsyncHTTPTransport(http2=True, verify=here.client(), trust_env=False),
                http2,
            ),
        ]
        for name, transport, port in sides:
            whole = await microseconds(transport, port, "json", 1600, 16)
            streamed = await microseconds(transport, port, "stream", 128, 64)
            seen.setdefault(name, []).append((whole, streamed / CHUNKS))
            await transport.aclose()
    print(f"{'':14}{'us/JSON':>10}{'us/chunk':>10}")
    for name, rows in seen.items():
        whole, part = (median(column) for column in zip(*rows, strict=True))
        print(f"{name:14}{whole:10.0f}{part:10.1f}")


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        uvloop.run(serve(Localhost(folder / "cert.pem", folder / "key.pem")))
        return
    with tempfile.TemporaryDirectory() as folder_name:
        here = localhost(Path(folder_name))
        command = [sys.executable, __file__, folder_name]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            http1, http2 = map(int, server.stdout.readline().split())
            uvloop.run(measure(here, http1, http2))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
