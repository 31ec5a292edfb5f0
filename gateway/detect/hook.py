"""Somebody else's detector, asked on this machine: an HTTP endpoint, or a function of a module.

Either is given texts and says of each how far it may travel. It may only tighten, and whatever goes
wrong counts as the tightest answer: no connection, a late or a strange one, an exception.

    POST url    {"texts": ["…", "…"]}   →   200 {"zones": ["public", "machine"]}
    module:function(["…", "…"])         →   ["public", "machine"]
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

import httpx
import orjson

from gateway.core.routing import Zone

Hook: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Zone]]]
"""Texts in, the widest zone of each out. Raises HookFailed, or TimeoutError by its caller."""

MAX_ANSWER = 1024 * 1024
MAX_CALLS = 8
"""Calls of a function at once: each has a thread, and one that never returns keeps it."""

_ZONES = {zone.label: zone for zone in Zone}


class HookFailed(Exception):
    """The hook gave no answer that can be read. Never has a text in it."""


class HttpHook:
    """An endpoint on this machine, over the transport that it is given."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport, timeout_s: float) -> None:
        self._url = httpx.URL(url)
        self._transport = transport
        self._limits = {"connect": timeout_s, "pool": timeout_s, "read": timeout_s, "write": 30.0}

    async def __call__(self, texts: Sequence[str]) -> Sequence[Zone]:
        body = orjson.dumps({"texts": texts})
        request = httpx.Request(
            "POST",
            self._url,
            headers={
                "host": self._url.netloc.decode("ascii"),
                "content-type": "application/json",
                "content-length": str(len(body)),
                "accept-encoding": "identity",
            },
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._limits},
        )
        try:
            response = await self._transport.handle_async_request(request)
            try:
                answer = await _read(response)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise HookFailed(type(error).__name__) from None
        if response.status_code != httpx.codes.OK:
            raise HookFailed(f"status {response.status_code}")
        try:
            said = orjson.loads(answer)
        except orjson.JSONDecodeError:
            raise HookFailed("its answer is no JSON") from None
        return zones(said.get("zones") if isinstance(said, dict) else None, len(texts))

    async def aclose(self) -> None:
        await self._transport.aclose()


class FunctionHook:
    """A function, called in a thread of its own. One that hangs delays nobody's exit."""

    def __init__(self, place: str) -> None:
        self._function = function_at(place)
        self._calls = 0

    async def __call__(self, texts: Sequence[str]) -> Sequence[Zone]:
        if self._calls >= MAX_CALLS:
            raise HookFailed("its earlier calls have not returned")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: str | None) -> None:
            self._calls -= 1
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(HookFailed(error))

        def call() -> None:
            result, error = None, None
            try:
                result = self._function(list(texts))
            except BaseException as caught:  # outermost: it is somebody else's code
                error = type(caught).__name__
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                pass  # the loop has closed meanwhile

        self._calls += 1
        threading.Thread(target=call, name="privacy-hook", daemon=True).start()
        return zones(await future, len(texts))

    async def aclose(self) -> None:
        """Nothing: threads end with their calls."""


def function_at(place: str) -> Callable[[list[str]], Any]:
    """The function at `module:name`. Raises ValueError, whatever importing it raised."""
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # outermost: it is somebody else's module
        raise ValueError(f"cannot import {place!r} ({type(error).__name__})") from None
    if not callable(found):
        raise ValueError(f"{place!r} is no function")
    function: Callable[[list[str]], Any] = found
    return function


def zones(said: Any, count: int) -> Sequence[Zone]:
    """As many zones as texts were given. Raises HookFailed for anything else."""
    if not isinstance(said, list | tuple) or len(said) != count:
        raise HookFailed("it must name a zone for each text")
    named = [_ZONES.get(each) if isinstance(each, str) else None for each in said]
    known = [each for each in named if each is not None]
    if len(known) != count:
        raise HookFailed("a zone is one of " + ", ".join(_ZONES))
    return known


async def _read(response: httpx.Response) -> bytes:
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    answer = bytearray()
    async for part in stream:
        answer += part
        if len(answer) > MAX_ANSWER:
            raise HookFailed("its answer is too long")
    return bytes(answer)
