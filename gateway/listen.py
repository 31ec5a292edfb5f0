"""Listening, draining and leaving: uvicorn with our own signals.

uvicorn re-raises the signal it was stopped by, so that a clean SIGTERM would exit 143, and cuts
streams without a word (operations.md 0.5). Here the first signal drains: readiness turns 503, new
requests are refused, streams finish within the grace, and the process exits 0. The second leaves at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from backends.speculative.session import MAX_MESSAGE
from gateway.dialects import DIALECTS
from gateway.hot_lane import lane
from gateway.server import App

logger = logging.getLogger("tandem.listen")

GRACE_S = 30
HOT = frozenset(DIALECTS)
BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by re-raising."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listener(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Listeners:
    """Serves ASGI applications on bound sockets until a signal or `stop`."""

    def __init__(self, on_drain: Callable[[], None]) -> None:
        self._on_drain = on_drain
        self._servers: list[_Server] = []
        self._signals = 0

    async def serve(self, apps: list[tuple[App, socket.socket]]) -> None:
        """Returns when everything has drained. Call from the main thread."""
        self._servers = [_Server(_config(app)) for app, _ in apps]
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

    def stop(self) -> None:
        """Drain; asked a second time, leave at once."""
        self._signals += 1
        self._on_drain()
        for server in self._servers:
            server.should_exit = True
            server.force_exit = self._signals > 1

    @property
    def started(self) -> bool:
        return bool(self._servers) and all(server.started for server in self._servers)


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=lane(HOT),
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
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
    )
