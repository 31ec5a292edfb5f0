"""What carries a session to a companion: a WebSocket, or where none can be made, HTTP alone.

Before a session stands, whatever fails is `NoSession`. After that a transport says only `Lost`; the
session then asks for another one and resumes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from functools import cache
from typing import Protocol, Self
from urllib.parse import urlsplit

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State

from backends.clocks import Clock
from backends.door import Answer
from backends.http import HttpUpstream
from backends.speculative.parse import parse
from backends.speculative.session import (
    MAX_MESSAGE,
    MAX_POSTED,
    PATH,
    Close,
    MalformedMessage,
    Message,
    Open,
    Resume,
    pack,
    pack_text,
)
from gateway.core.errors import TandemError, UpstreamBroken
from gateway.core.exchange import Call
from gateway.wire.sse import FrameTooLarge, SseDecoder

PING_S = 15.0
"""Under the idle limits of the usual proxies (DESIGN 6)."""
CLOSE_S = 0.5

_CLOSING: set[asyncio.Task[None]] = set()
"""Sockets on their way out; the loop keeps no tasks by itself."""

# At DEBUG the library would log the Authorization header.
_LOG = logging.getLogger("tandem.session")
_LOG.setLevel(logging.WARNING)


class NoSession(Exception):
    """No session came about. `reason` is a word for the record; nothing has been answered.

    `lasting`: it would fail again the same way, so it need not be tried on the next request.
    `upgrade`: what failed is the WebSocket itself, so that HTTP alone may do.
    """

    def __init__(self, reason: str, *, lasting: bool = False, upgrade: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting
        self.upgrade = upgrade


class Lost(Exception):
    """The way to the companion broke. The session may still be there."""


class Transport(Protocol):
    """One way to a companion, for one session at a time."""

    async def send(self, message: Message) -> None:
        """Raises Lost."""

    async def receive(self) -> Message:
        """Raises Lost, and MalformedMessage for what is no message of ours."""

    async def rtt(self) -> float | None:
        """Seconds there and back; None if that is not known."""

    async def aclose(self, *, ended: bool) -> None:
        """Leave. Unless the answer has `ended`, the companion stops it at once."""

    async def drop(self) -> None:
        """Be gone without a word, so that the companion keeps the session."""


class _Direct(connect):
    """Follows no redirect: a prompt goes where the operator said, or nowhere."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def session_url(base_url: str) -> str:
    """Where a companion's sessions are, from the address of its HTTP API."""
    parts = urlsplit(base_url)
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    root = parts.path.rstrip("/").removesuffix("/v1")
    return f"{scheme}://{parts.netloc}{root}{PATH}"


class WebSocketTransport:
    """A WebSocket of its own, closed with the session."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def connect(cls, url: str, *, api_key: str | None, timeout_s: float) -> Self:
        """Raises NoSession."""
        try:
            socket = await _Direct(
                url,
                additional_headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
                user_agent_header="tandem",
                compression=None,
                proxy=None,
                ssl=_tls() if url.startswith("wss:") else None,
                open_timeout=timeout_s,
                close_timeout=CLOSE_S,
                ping_interval=PING_S,
                max_size=MAX_MESSAGE,
                # Commits are small and must not wait for each other at the sender.
                max_queue=256,
                logger=_LOG,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            lasting = status in (404, 405, 501)
            # 405 is what a companion says to a GET whose Upgrade a proxy has taken off.
            upgrade = status in (200, 400, 405, 426, 501)
            raise NoSession(f"status_{status}", lasting=lasting, upgrade=upgrade) from None
        except InvalidHandshake:
            raise NoSession("no_websocket", lasting=True, upgrade=True) from None
        except InvalidURI:
            raise NoSession("bad_url", lasting=True) from None
        except TimeoutError:
            raise NoSession("connect_timeout") from None
        except OSError:
            raise NoSession("unreachable") from None
        return cls(socket)

    @property
    def stands(self) -> bool:
        """Whether nothing is known of its end. It may be gone all the same."""
        return self._socket.state is State.OPEN

    async def send(self, message: Message) -> None:
        frame = pack(message)
        try:
            await self._socket.send(frame)
        except ConnectionClosed:
            raise Lost from None

    async def receive(self) -> Message:
        try:
            return parse(await self._socket.recv())
        except ConnectionClosed:
            raise Lost from None

    async def rtt(self) -> float | None:
        try:
            return await (await self._socket.ping())
        except ConnectionClosed:
            return None

    async def aclose(self, *, ended: bool) -> None:
        """One that does not answer the close within CLOSE_S is cut off.

        After an answer's end nobody waits for that: it would take a round trip, and the client's
        last frame with it.
        """
        closing = asyncio.create_task(self._socket.close(1000 if ended else 1001))
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)
        if not ended:
            await asyncio.shield(closing)

    async def drop(self) -> None:
        self._socket.transport.abort()
        await self._socket.wait_closed()


class PostTransport:
    """Server-sent events down, POSTs up; both in the upstream's own connections and zone check.

    What is said while a POST is under way goes with the next one.
    """

    def __init__(self, http: HttpUpstream, url: httpx.URL, call: Call, clock: Clock) -> None:
        self._http = http
        self._url = url
        self._call = call
        self._clock = clock
        self._stream: Answer | None = None
        self._decoder = SseDecoder(MAX_MESSAGE)
        self._path = ""
        self._token = ""
        self._outbox: deque[Message] = deque(maxlen=4 * MAX_POSTED)
        self._posting: asyncio.Task[None] | None = None

    async def begin(self, first: Open | Resume) -> None:
        """Post what begins the session. Raises NoSession."""
        try:
            self._stream = await self._http.post(
                self._http.target(self._url),
                pack_text(first).encode(),
                self._call,
                self._clock,
                expect="text/event-stream",
            )
        except TandemError as error:
            lasting = error.status in (404, 405, 501)
            raise NoSession(error.code or error.type, lasting=lasting) from None

    def name(self, session: str, token: str) -> None:
        """What `opened` said."""
        self._path, self._token = f"{self._url.path}/{session}", token

    async def send(self, message: Message) -> None:
        self._outbox.append(message)
        if self._posting is None or self._posting.done():
            self._posting = asyncio.create_task(self._post())

    async def receive(self) -> Message:
        assert self._stream is not None
        while True:
            try:
                while (frame := self._decoder.take()) is not None:
                    if frame.data is not None:
                        return parse(frame.data.decode("utf-8", "replace"))
                part = await self._http.part(self._stream, self._clock)
            except FrameTooLarge as error:
                raise MalformedMessage(str(error)) from None
            except UpstreamBroken:
                raise Lost from None
            if not part:
                raise Lost
            self._decoder.add(part)

    async def rtt(self) -> float | None:
        return None

    async def aclose(self, *, ended: bool) -> None:
        try:
            await self.send(Close())
            if self._posting is not None:
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.shield(self._posting)
        except TimeoutError:
            pass  # it will find out
        finally:
            await self.drop()

    async def drop(self) -> None:
        if self._posting is not None:
            self._posting.cancel()
            await asyncio.wait([self._posting])
        await self._http.close(self._stream, self._clock)

    async def _post(self) -> None:
        while self._outbox and self._path:
            batch = [self._outbox.popleft() for _ in range(min(MAX_POSTED, len(self._outbox)))]
            body = {
                "token": self._token,
                "messages": [orjson.Fragment(pack_text(m)) for m in batch],
            }
            clock = self._http.clock(self._call, streaming=False)
            answer = None
            try:
                answer = await self._http.post(
                    self._http.target(self._url.join(self._path)),
                    orjson.dumps(body),
                    self._call,
                    clock,
                    expect="application/json",
                )
                await self._http.read(answer, clock)
            except TandemError:
                return  # drafts may be lost, and the reader hears of a session that is gone
            finally:
                await self._http.close(answer, clock)
