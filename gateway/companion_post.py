"""A session without a WebSocket: server-sent events down, POSTs up.

For networks that let no Upgrade through. The bodies are the session's messages as JSON; only the
way differs, so everything behind a channel is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self, TypeAlias

from backends.speculative.parse import parse, posted
from backends.speculative.seams import Gone
from backends.speculative.session import (
    MAX_MESSAGE,
    Failure,
    MalformedMessage,
    Message,
    Open,
    Resume,
    pack_text,
)
from gateway.core.errors import BodyTooLarge, Overloaded

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

QUIET_S = 15.0
"""After so long without a message a comment is sent: proxies cut streams that seem idle."""
MOST_UNREAD = 1024


async def read_body(receive: Receive) -> bytes:
    """Raises BodyTooLarge, and Gone if the client leaves before the end."""
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Gone
        body += event.get("body", b"")
        if len(body) > MAX_MESSAGE:
            raise BodyTooLarge(f"A message may hold at most {MAX_MESSAGE} bytes.")
        if not event.get("more_body", False):
            return bytes(body)


def read_message(body: bytes) -> Open | Resume:
    """What begins a session. Raises MalformedMessage."""
    message = parse(_text(body))
    if not isinstance(message, Open | Resume):
        raise MalformedMessage("A session begins with 'open'.")
    return message


def read_posted(body: bytes) -> tuple[str, list[Message]]:
    """A session's token and what is said in it. Raises MalformedMessage."""
    return posted(_text(body))


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("A body must be JSON.") from None


async def respond(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    except OSError:
        pass


class EventStream:
    """A response of server-sent events as a session's channel; `put` brings what is posted."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._posted: asyncio.Queue[Message | None] = asyncio.Queue(MOST_UNREAD)
        self._gone = False
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        except OSError:
            self._gone = True
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.wait([self._watching])

    def put(self, message: Message) -> None:
        """Raises Overloaded if the session does not take up what came before."""
        try:
            self._posted.put_nowait(message)
        except asyncio.QueueFull:
            raise Overloaded("Too many messages are waiting.", retry_after=1) from None

    async def receive(self) -> Message:
        while not self._gone:
            try:
                async with asyncio.timeout(QUIET_S):
                    message = await self._posted.get()
            except TimeoutError:
                await self._write(b": \n\n")
                continue
            if message is not None:
                return message
        raise Gone

    async def send(self, message: Message) -> None:
        await self._write(b"data: " + pack_text(message).encode() + b"\n\n")

    async def leave(self, failure: Failure | None) -> None:
        try:
            if failure is not None:
                await self.send(failure)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except (Gone, OSError, RuntimeError):
            pass

    async def _write(self, data: bytes) -> None:
        if self._gone:
            raise Gone
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            self._gone = True
            raise Gone from None

    async def _watch(self) -> None:
        """Notice that the reader is gone, which a session between two commits would not."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._posted.empty():
            self._posted.put_nowait(None)
