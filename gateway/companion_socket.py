"""A WebSocket as a session's channel, and the refusal of one that may not open."""

from __future__ import annotations

import asyncio
from typing import Protocol

from backends.speculative.parse import parse
from backends.speculative.seams import Channel, Gone
from backends.speculative.session import Failure, Message, pack, pack_text
from gateway.companion_post import Event, Receive, Scope, Send
from gateway.core.errors import TandemError
from gateway.wire.openai_shapes import error_body

CLOSING_S = 0.02
LEFT = (1000, 1001)
"""Codes of a WebSocket that was closed in good order. 1005 is also uvicorn's for one that broke."""


class Endable(Channel, Protocol):
    """A channel whose session can be ended from here."""

    async def leave(self, failure: Failure | None) -> None:
        """End it in good order, after a last word if there is one. Raises nothing."""


class Socket:
    """An ASGI WebSocket as a session's channel. Answers in the kind of frame it is asked in."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._text = False

    async def receive(self) -> Message:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            raise Gone(left=event.get("code") in LEFT)
        data = event.get("bytes")
        self._text = data is None
        return parse(event["text"] if data is None else data)

    async def send(self, message: Message) -> None:
        event: Event = {"type": "websocket.send"}
        if self._text:
            event["text"] = pack_text(message)
        else:
            event["bytes"] = pack(message)
        try:
            await self._send(event)
        except (OSError, RuntimeError):  # the latter: a send after the close that we have heard of
            raise Gone from None

    async def leave(self, failure: Failure | None) -> None:
        try:
            if failure is not None:
                await self.send(failure)
            await self._send({"type": "websocket.close", "code": _code(failure)})
        except (Gone, OSError, RuntimeError):
            pass  # closed already, which is what was wanted


def _code(failure: Failure | None) -> int:
    """A refusal ends a socket in good order; what nobody foresaw does not."""
    return 1011 if failure is not None and failure.code == "internal_error" else 1000


async def refuse(scope: Scope, receive: Receive, send: Send, error: TandemError) -> None:
    """An HTTP answer instead of the Upgrade, so that a person sees why."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # the server makes it a 403
        return
    body = error_body(error)
    headers = [(b"content-type", b"application/json")]
    await send(
        {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
    )
    await send({"type": "websocket.http.response.body", "body": body})
    # uvicorn logs an error for a handshake that was refused like this, unless the connection has
    # closed by the time we return; anybody could fill a log with it.
    await receive()
    await asyncio.sleep(CLOSING_S)
