"""A whole gateway in this process, on a real socket, behind the server that `tandem serve` uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from gateway.app import Gateway
from gateway.cli.serve import limits_of
from gateway.config import loads
from gateway.listen import Listeners, listener


@dataclass
class Running:
    gateway: Gateway
    listeners: Listeners
    port: int
    task: asyncio.Task[None]
    http: httpx.AsyncClient


@asynccontextmanager
async def running(config: str, **env: str) -> AsyncIterator[Running]:
    """The gateway of a YAML text, listening; stopped at once when the block ends."""
    settings = loads(config, env=env)
    gateway = Gateway(settings)
    sock = listener("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listeners = Listeners(gateway, settings.server.drain, limits_of(settings.server))
    await gateway.start()
    task = asyncio.create_task(listeners.serve([(gateway.app, sock)]))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    base_url = f"http://127.0.0.1:{port}"
    http = httpx.AsyncClient(base_url=base_url, timeout=30, limits=limits, trust_env=False)
    try:
        while not listeners.started:
            await asyncio.sleep(0.01)
        yield Running(gateway, listeners, port, task, http)
    finally:
        await http.aclose()
        if not task.done():
            listeners.stop()
            listeners.stop()
        await task
        await gateway.aclose()
        sock.close()
