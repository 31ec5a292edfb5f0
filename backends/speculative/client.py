"""The edge's end of a session: one WebSocket to a companion, and what can go wrong with it.

Before the session stands, whatever fails is `NoSession`, and the same request goes over HTTP
instead. After that it is an UpstreamError, for a part of the answer may have been shown.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from functools import cache
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from backends.http import Clock
from backends.speculative.parse import parse
from backends.speculative.session import (
    MAX_MESSAGE,
    PATH,
    Commit,
    Draft,
    Failure,
    MalformedMessage,
    Message,
    Open,
    Opened,
    Stale,
    pack,
)
from gateway.core.errors import LocalUnavailable, TandemError, UpstreamBroken
from gateway.core.exchange import Call
from gateway.core.routing import Zone

PING_S = 15.0
"""Under the idle limits of the usual proxies (DESIGN 6)."""
CLOSE_S = 0.5
OPENED_S = 10.0
"""For rendering the prompt; a session is opened before it waits for its turn."""

# At DEBUG the library would log the Authorization header.
_LOG = logging.getLogger("tandem.session")
_LOG.setLevel(logging.WARNING)


class NoSession(Exception):
    """No session came about. `reason` is a word for the record; nothing has been answered.

    `lasting`: it would fail again the same way, so it need not be tried on the next request.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


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


class Session:
    """An open session. Whoever opened it closes it, and that stops the work at the other end."""

    def __init__(self, upstream: str, socket: ClientConnection, clock: Clock) -> None:
        self._upstream = upstream
        self._socket = socket
        self._clock = clock
        self._ended = False

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        upstream: str,
        zone: Zone,
        call: Call,
        clock: Clock,
        api_key: str | None,
        timeout_s: float,
    ) -> Session:
        """Reach the companion. Raises NoSession, or LocalUnavailable before any connection if the
        request's zone does not reach that far (DESIGN 2.3)."""
        if not call.zone.admits(zone):
            raise LocalUnavailable(
                f"upstream {upstream!r} lies outside the request's zone {call.zone.label!r}"
            )
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
            raise NoSession(f"status_{status}", lasting=status in (404, 405, 501)) from None
        except InvalidHandshake:
            raise NoSession("no_websocket", lasting=True) from None
        except InvalidURI:
            raise NoSession("bad_url", lasting=True) from None
        except TimeoutError:
            raise NoSession("connect_timeout") from None
        except OSError:
            raise NoSession("unreachable") from None
        return cls(upstream, socket, clock)

    async def open(self, message: Open) -> Opened:
        """Ask for the session. Raises NoSession if the companion will not have it."""
        try:
            frame = pack(message)
        except (ValueError, OverflowError):
            raise NoSession("unpackable") from None  # JSON that msgpack cannot say: huge integers
        try:
            async with asyncio.timeout(OPENED_S):
                await self._socket.send(frame)
                answer = await self._receive()
        except TimeoutError:
            raise NoSession("open_timeout") from None
        except TandemError as error:
            raise NoSession(error.code or "broken") from None
        except ConnectionClosed:
            raise NoSession("closed") from None
        if isinstance(answer, Opened):
            return answer
        self._ended = True
        code = answer.code if isinstance(answer, Failure) else "out_of_turn"
        raise NoSession(code, lasting=code in ("fingerprint_mismatch", "version_mismatch"))

    async def draft(self, message: Draft) -> None:
        """Propose tokens. A socket that is gone is the reader's to report."""
        try:
            await self._socket.send(pack(message))
        except ConnectionClosed:
            pass

    async def messages(self) -> AsyncGenerator[Commit | Stale, None]:
        """Commits until the one that finishes. Raises UpstreamError when the session breaks."""
        while not self._ended:
            message = await self._receive()
            match message:
                case Commit():
                    self._clock.restart()
                    self._ended = message.finish is not None
                    yield message
                    self._clock.restart()
                case Stale():
                    yield message
                case Failure():
                    self._ended = True
                    raise UpstreamBroken(
                        f"upstream {self._upstream!r} ended the session ({message.code[:60]})"
                    )
                case _:
                    raise self._broken("sent a message out of turn")

    async def rtt(self) -> float | None:
        """Seconds there and back; None if the socket closes first."""
        try:
            return await (await self._socket.ping())
        except ConnectionClosed:
            return None

    async def aclose(self) -> None:
        """Leave. The companion hears the close and frees the target at once; one that does not
        answer it within CLOSE_S is cut off."""
        self._clock.stop()
        await self._socket.close(1000 if self._ended else 1001)

    async def _receive(self) -> Message:
        try:
            return parse(await self._clock.wait(self._socket.recv()))
        except ConnectionClosed:
            raise self._broken("closed the session in the middle of its answer") from None
        except MalformedMessage:
            raise self._broken("does not speak the session's protocol") from None

    def _broken(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"upstream {self._upstream!r} {what}")
