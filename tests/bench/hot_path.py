"""A request's way without its sockets: what is Python's. `python tests/bench/hot_path.py [--calls]`

The gateway whole, from the client's protocol class to the upstream's connection; only the two
sockets are objects that hand bytes over in the next turn of the loop. CPU microseconds for each
request and chunk; `--calls` counts the function calls instead and lists where they are. The kernel,
the loop's own reads and writes and the clients come on top: overhead.py measures all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn
import uvloop
from uvicorn.server import ServerState

from backends.http import _tls
from backends.http1 import Http1Transport
from backends.http1_connection import Connection, Origin
from gateway.app import Gateway
from gateway.config import load
from gateway.limits.keys import digest_of
from gateway.listen import HOT
from gateway.surface import Limits, guarded
from tests.bench.relay.load import request
from tests.bench.relay.measure import EVENTS, chat
from tests.bench.relay.peers import KEY, TANDEM
from tests.bench.relay.stub import _END, _FRAMES, _REPLY, _STREAM_HEAD, _USAGE

CLIENTS = 16


class Wire:
    """What both ends take for a transport."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Upstream(Wire):
    """Answers as the stub does, a chunk for each turn of the loop where it is paced."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        receive, soon = self.connection.data_received, self.loop.call_soon
        if b'"stream":true' not in data:
            soon(receive, _REPLY)
        elif b"paced" in data:
            soon(receive, _STREAM_HEAD)
            soon(self._next, 0)
        else:
            soon(receive, b"".join((_STREAM_HEAD, *_FRAMES, _USAGE, _END)))

    def _next(self, at: int) -> None:
        if at == len(_FRAMES):
            self.connection.data_received(_USAGE + _END)
            return
        self.connection.data_received(_FRAMES[at])
        # Two turns: by then the relay has passed the chunk on, as it has when chunks are paced.
        self.loop.call_soon(self.loop.call_soon, self._next, at + 1)


class NoSockets(Http1Transport):
    async def _connect(self, origin: Origin, timeout_s: float | None) -> Connection:
        connection = Connection(self, origin)
        connection.connection_made(Upstream(connection))  # type: ignore[arg-type]
        self._open.add(connection)
        return connection


class Client(Wire):
    """One client: the next request when the answer is whole."""

    def __init__(self, asked: bytes, count: int, whole: asyncio.Future[None]) -> None:
        super().__init__()
        self.asked, self.left, self.whole = asked, count, whole
        self.protocol: Any = None
        self.writes = 0

    def start(self) -> None:
        self.loop.call_soon(self.protocol.data_received, self.asked)

    def write(self, data: bytes) -> None:
        self.writes += 1
        if data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200"):
            raise SystemExit(data.decode())
        chunked = b"transfer-encoding: chunked" in data[:800] or not data.startswith(b"HTTP")
        if chunked and not data.endswith(b"0\r\n\r\n"):
            return
        self.left -= 1
        if self.left > 0:
            self.start()
        elif not self.whole.done():
            self.whole.set_result(None)


async def _gateway(folder: Path) -> Gateway:
    path = folder / "tandem.yaml"
    path.write_text(TANDEM.format(port=0, stub=9, digest=digest_of(KEY)))
    gateway = Gateway(load(path, {}), model_dir=folder, transport=lambda: NoSockets(_tls()))
    await gateway.start()
    return gateway


async def _drive(lane: Any, gateway: Gateway, asked: bytes, count: int) -> float:
    """CPU seconds of `count` requests, over all clients."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(gateway.app, http=lane, lifespan="off", log_config=None)
    state, ends = ServerState(), []
    clients = []
    for _ in range(CLIENTS):
        whole = loop.create_future()
        client = Client(asked, count // CLIENTS, whole)
        client.protocol = lane(config, state, {})
        client.protocol.connection_made(client)
        clients.append(client)
        ends.append(whole)
    began = time.process_time()
    for client in clients:
        client.start()
    await asyncio.gather(*ends)
    spent = time.process_time() - began
    await asyncio.sleep(0.01)
    for client in clients:
        client.protocol.connection_lost(None)
    return spent


async def _main(arguments: argparse.Namespace) -> None:
    lane = guarded(HOT, Limits())
    bodies = {
        "json": (chat(160), 4800, 1),
        "json4k": (chat(4096), 4800, 1),
        "burst": (chat(160, word="burst", stream=True), 960, EVENTS),
        "paced": (chat(160, word="paced", stream=True), 480, EVENTS),
    }
    only = arguments.only.split(",") if arguments.only else list(bodies)
    with tempfile.TemporaryDirectory() as folder:
        gateway = await _gateway(Path(folder))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        for name in only:
            body, count, per = bodies[name]
            asked = request(
                "127.0.0.1:1", "/v1/chat/completions", body, authorization=f"Bearer {KEY}"
            )
            await _drive(lane, gateway, asked, CLIENTS * 10)
            if arguments.calls:
                with cProfile.Profile() as profile:
                    await _drive(lane, gateway, asked, 320)
                stats = pstats.Stats(profile)
                print(f"{name}: {stats.total_calls / 320:.0f} calls a request")  # type: ignore[attr-defined]
                stats.sort_stats(arguments.sort).print_stats(arguments.lines)
                continue
            runs = [
                await _drive(lane, gateway, asked, count) / count * 1e6
                for _ in range(arguments.runs)
            ]
            middle, least = statistics.median(runs), min(runs)
            print(f"{name:8} {middle:7.1f} us a request (least {least:.1f})", end="")
            print(f", {middle / per:6.2f} a chunk" if per > 1 else "")
        before = gc.collect()
        print(f"unreachable objects in cycles: {before}")
        await gateway.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="count calls")
    parser.add_argument("--sort", default="tottime")
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    uvloop.run(_main(parser.parse_args()))
