"""A TCP proxy that treats connections badly: `python -m tests.fakes.chaos HOST:PORT --help`.

It stands before any server and knows nothing of what it carries: latency, a rate, a cut or a reset
after so many bytes of the answer, a half-close, a blackhole. What is not asked for is not done, and
`toxics` may be replaced while it runs, for connections that come afterwards.

    async with ChaosProxy("127.0.0.1", 8000, Toxics(reset_after=400)) as proxy:
        ... talk to 127.0.0.1:proxy.port ...
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields

READ = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxics:
    """What is done to a connection. Bytes count what the server sends; None: not done.

    `latency_s` is what every read is late in both directions, `rate` is bytes a second towards the
    client. After `cut_after` bytes both sides are closed, after `reset_after` the client gets a
    RST, after `half_close_after` only the direction to the client ends, and after
    `blackhole_after` nothing more is carried either way while both connections stay open; 0 is
    before the first byte.
    """

    latency_s: float = 0.0
    rate: float | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    half_close_after: int | None = None
    blackhole_after: int | None = None

    @property
    def limit(self) -> int | None:
        """The byte of the answer at which something happens."""
        ends = (self.cut_after, self.reset_after, self.half_close_after, self.blackhole_after)
        return min((end for end in ends if end is not None), default=None)


class ChaosProxy:
    """One listening port before one server."""

    def __init__(self, host: str, port: int, toxics: Toxics = Toxics(), *, at: int = 0) -> None:
        self.toxics = toxics
        self.connections = 0
        self.carried = 0
        """Bytes that went to clients."""
        self._target = host, port
        self._at = at
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def __aenter__(self) -> ChaosProxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._at)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._carry(reader, writer, self.toxics)
        except (OSError, asyncio.CancelledError):
            pass  # one of the two has gone, or the proxy stops
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxics: Toxics
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        asking = asyncio.create_task(self._up(reader, up_writer, toxics))
        answering = asyncio.create_task(self._down(up_reader, writer, toxics))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            # A client that sends nothing more may still be reading.
            if asking.done() and asking.exception() is None:
                await answering
        finally:
            for task in (asking, answering):
                task.cancel()
            up_writer.close()  # first: we may be cancelled while we wait
            await asyncio.gather(asking, answering, return_exceptions=True)

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxics: Toxics
    ) -> None:
        async with contextlib.aclosing(late(reader, toxics.latency_s)) as parts:
            async for part in parts:
                writer.write(part)
                await writer.drain()
        writer.write_eof()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxics: Toxics
    ) -> None:
        left = toxics.limit
        if left is None and toxics.rate is None:
            async with contextlib.aclosing(late(reader, toxics.latency_s)) as parts:
                async for part in parts:
                    writer.write(part)
                    await writer.drain()
                    self.carried += len(part)
            return
        while left is None or left > 0:
            part = await reader.read(READ if left is None else min(READ, left))
            if not part:
                return
            await asyncio.sleep(toxics.latency_s)
            if toxics.rate is not None:
                await asyncio.sleep(len(part) / toxics.rate)
            writer.write(part)
            await writer.drain()
            self.carried += len(part)
            left = None if left is None else left - len(part)
        if toxics.reset_after == toxics.limit:
            reset(writer)
        elif toxics.half_close_after == toxics.limit:
            writer.write_eof()
            await asyncio.Event().wait()
        elif toxics.blackhole_after == toxics.limit:
            await asyncio.Event().wait()


async def late(reader: asyncio.StreamReader, latency_s: float) -> AsyncGenerator[bytes, None]:
    """What comes, each part so much later: a long line, and no slow one."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def pump() -> None:
        part = b"?"
        while part:
            try:
                part = await reader.read(READ)
            except OSError:
                part = b""
            under_way.put_nowait((loop.time() + latency_s, part))

    pumping = asyncio.create_task(pump())
    try:
        while True:
            due, part = await under_way.get()
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            if not part:
                return
            yield part
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


def reset(writer: asyncio.StreamWriter) -> None:
    """Drop a connection with a TCP RST."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(host: str, port: int, at: int, toxics: Toxics) -> None:
    async with ChaosProxy(host, port, toxics, at=at) as proxy:
        print(f"127.0.0.1:{proxy.port} -> {host}:{port} {toxics}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", help="HOST:PORT of the server behind")
    parser.add_argument("--port", type=int, default=0, help="to listen on; default: a free one")
    for field in fields(Toxics):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float if field.name in ("latency_s", "rate") else int,
            default=field.default,
        )
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    toxics = Toxics(**{field.name: getattr(options, field.name) for field in fields(Toxics)})
    try:
        asyncio.run(serve(host or "127.0.0.1", int(port), options.port, toxics))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
