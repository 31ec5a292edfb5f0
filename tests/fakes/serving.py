"""An ASGI application behind a real uvicorn on a free port, for as long as a block runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from gateway.hot_lane import lane
from gateway.listen import HOT


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The server's address, `http://127.0.0.1:PORT`."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=lane(HOT),
        lifespan="off",
        log_config=None,
        ws_per_message_deflate=False,
        ws_ping_interval=15.0,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
