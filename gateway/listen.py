"""Listening, draining and leaving: uvicorn with our own signals.

uvicorn re-raises the signal it was stopped by, so that a clean SIGTERM would exit 143, and cuts
streams without a word (operations.md 0.5). Here the first signal drains: readiness turns 503, new
requests are refused on connections that are still accepted, streams finish within the grace or are
told why they do not, and the process exits 0. The second leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import uvicorn

from backends.speculative.session import MAX_MESSAGE
from gateway.asgi import App
from gateway.dialects import DIALECTS
from gateway.surface import GuardedLane, Limits, guarded, most_connections

logger = logging.getLogger("tandem.listen")

LAST_WORDS_S = 2
"""For the answers of those that were cut to reach their clients."""
HOT = frozenset(DIALECTS)
BACKLOG = 2048
LOOK_EVERY = 3
"""Ticks of uvicorn's, ten a second, between two looks at every connection."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by re-raising."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % LOOK_EVERY == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, GuardedLane):
                    connection.look(now)
        return await super().on_tick(counter)

    def abort(self) -> None:
        """Drop every connection that is left."""
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()


def listener(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises OSError, with the address in its words, when that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        why = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise OSError(error.errno, why) from None
    return sock


class Inside(Protocol):
    """Those being served: how many they are, and the two ways to see them out."""

    @property
    def inside(self) -> int: ...

    async def left(self) -> None: ...

    def drain(self) -> None: ...

    def cut(self) -> None: ...


class Listeners:
    """Serves ASGI applications on bound sockets until a signal or `stop`.

    `grace` is how long, in seconds, those inside may go on after that.
    """

    def __init__(self, served: Inside, grace: float, limits: Limits) -> None:
        self._served = served
        self._grace = grace
        self._limits = replace(limits, connections=most_connections(limits.connections))
        self._draining: asyncio.Task[None] | None = None
        self._servers: list[_Server] = []
        self._signals = 0

    async def serve(self, apps: list[tuple[App, socket.socket]]) -> None:
        """Returns when everything has drained. Call from the main thread."""
        self._servers = [_Server(_config(app, self._limits)) for app, _ in apps]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            await asyncio.gather(
                *(
                    server.serve(sockets=[sock])
                    for server, (_, sock) in zip(self._servers, apps, strict=True)
                )
            )
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            if self._draining is not None:
                self._draining.cancel()
                await asyncio.gather(self._draining, return_exceptions=True)

    def stop(self) -> None:
        """Drain; asked a second time, leave at once."""
        self._signals += 1
        if self._signals == 1:
            self._served.drain()
            self._draining = asyncio.create_task(self._see_out(), name="drain")
            return
        for server in self._servers:
            server.should_exit = server.force_exit = True
            server.abort()

    async def _see_out(self) -> None:
        """Until nobody is inside, or the grace is over and they have been told; then the end."""
        if not await self._empty_within(self._grace):
            logger.warning("cutting %d requests at the end of the grace", self._served.inside)
            self._served.cut()
            await self._empty_within(LAST_WORDS_S)
        for server in self._servers:
            server.should_exit = True
        # uvicorn flushes what was written; who does not read it is not waited for.
        await asyncio.sleep(LAST_WORDS_S)
        for server in self._servers:
            server.abort()

    async def _empty_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._served.left()
        except TimeoutError:
            return False
        return True

    @property
    def started(self) -> bool:
        return bool(self._servers) and all(server.started for server in self._servers)


def _config(app: App, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(HOT, limits),
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=15.0,
        ws_ping_timeout=15.0,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2 * LAST_WORDS_S,
        timeout_keep_alive=int(limits.keep_alive),
    )
