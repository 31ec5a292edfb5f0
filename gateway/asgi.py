"""ASGI in types, and what our own server in front adds to a request's scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Mapping[str, str]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

GONE = "tandem.gone"
"""A key of the ASGI scope, where the server in front of us has it: takes a function, and calls it
if the client leaves before its answer is whole. Elsewhere a task waits for `http.disconnect`."""
OUTLET = "tandem.outlet"
"""Another: an `Outlet`. Elsewhere each part of a body has to be awaited on its way."""


class Outlet(Protocol):
    """The way to the client for a streamed body, once its head was sent."""

    def write(self, data: bytes) -> None:
        """More of the body, without waiting. Nothing, if the client has left."""

    @property
    def full(self) -> bool:
        """Whether the client is behind."""

    async def room(self) -> None:
        """Wait until it is not."""
