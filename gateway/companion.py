"""The endpoint of `tandem serve --companion`, as a plain ASGI application.

Who may connect is decided on the Upgrade, before the socket is accepted; what is asked is read by
the same dialects as over HTTP, so that a session and a POST with one body mean one prompt. What
happens inside a session is backends/speculative/verify.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from backends.speculative.passes import TargetPace
from backends.speculative.seams import Ended, Gone, Target
from backends.speculative.session import (
    IDLE_S,
    KEPT_S,
    PATH,
    Failure,
    MalformedMessage,
    Message,
    Open,
    Resume,
)
from backends.speculative.shelf import Shelf
from backends.speculative.verify import LINGER_S, Left, VerifySession, failure_of
from gateway.companion_open import read_open
from gateway.companion_post import (
    EventStream,
    Receive,
    Scope,
    Send,
    read_body,
    read_message,
    read_posted,
    respond,
)
from gateway.companion_socket import Endable, Socket, refuse
from gateway.core.errors import (
    Draining,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TandemError,
)
from gateway.core.exchange import Caller
from gateway.headers import headers_of
from gateway.wire.openai_shapes import error_body

logger = logging.getLogger("tandem.companion")

Headers = Mapping[str, str]

MAX_SESSIONS = 256
MAX_IDLE = 256
"""Sockets that have said nothing yet."""


class CompanionEndpoint:
    """Sessions at `PATH`. One instance per server; a session's state lives in its VerifySession.

    `guard` sees method and headers and refuses a foreign Host or Origin, `authenticate` tells who
    calls, and `resolve` finds the target that the caller means and may use; all three raise a
    TandemError. `ended` hears of every session that was accepted, once. `idle_s` is how long a
    socket may take to begin.
    """

    def __init__(
        self,
        *,
        guard: Callable[[str, Headers], None],
        authenticate: Callable[[Headers], Caller],
        resolve: Callable[[str, Caller], Target],
        ended: Callable[[Ended], None] | None = None,
        max_sessions: int = MAX_SESSIONS,
        draining: Callable[[], bool] = bool,
        kept_s: float = KEPT_S,
        linger_s: float = LINGER_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._guard = guard
        self._authenticate = authenticate
        self._resolve = resolve
        self._max_sessions = max_sessions
        self.open_sessions = 0
        self._draining = draining
        self._linger_s = linger_s
        self._idle_s = idle_s
        self._idle: set[asyncio.Timeout] = set()
        self._retired = False
        self.shelf = Shelf(ended or (lambda _: None), kept_s=kept_s)
        self._posted: dict[str, EventStream] = {}
        self._distrusted: set[str] = set()
        self._paces: dict[str, TargetPace] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, at any path, or an HTTP request at `PATH` or below it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        await receive()  # websocket.connect
        try:
            caller = self._admit("GET", scope)
        except TandemError as error:
            await refuse(scope, receive, send, error)
            return
        socket = Socket(receive, send)
        try:
            await send({"type": "websocket.accept"})
            await self._serve(caller, socket, socket.receive)
        except OSError:
            pass  # it left while we were accepting; uvicorn says so with a kind of OSError

    def retire(self) -> None:
        """No session begins here any more: sockets that wait for one are closed."""
        self._retired = True
        now = asyncio.get_running_loop().time()
        for limit in self._idle:
            limit.reschedule(now)

    def cut(self) -> None:
        """End every session with a message that says why: the grace of draining is over."""
        self.shelf.clear()
        for session in self.shelf.served:
            session.stop(Draining(cut=True))

    def _admit(self, method: str, scope: Scope) -> Caller:
        if scope["path"] != PATH:
            raise NotFound(f"Sessions are at {PATH}.")
        caller = self._caller(method, scope)
        if self._draining():
            raise Draining()
        self._check_room()
        if len(self._idle) >= MAX_IDLE:
            raise Overloaded(f"{MAX_IDLE} sockets wait for their session.", retry_after=1)
        return caller

    def _check_room(self) -> None:
        if self.open_sessions >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are open.", retry_after=1)

    async def _awaited(self, first: Callable[[], Awaitable[Message]]) -> Message:
        """A socket's first message; it is no session before that. Raises Gone, MalformedMessage."""
        limit = asyncio.timeout(self._idle_s)
        try:
            async with limit:
                self._idle.add(limit)
                return await first()
        except TimeoutError:
            if self._retired:
                raise Gone from None
            raise MalformedMessage("No 'open' came.") from None
        finally:
            self._idle.discard(limit)

    def _caller(self, method: str, scope: Scope) -> Caller:
        headers = headers_of(scope)
        self._guard(method, headers)
        return self._authenticate(headers)

    async def _serve(
        self, caller: Caller, channel: Endable, first: Callable[[], Awaitable[Message]]
    ) -> None:
        """One socket, or what stands for one, from its first message to its end."""
        session: VerifySession | None = None
        left: Left = "over"
        failure: Failure | None = None
        counted = False
        try:
            opening = await self._awaited(first)
            self._check_room()
            self.open_sessions += 1
            counted = True
            if not isinstance(opening, Open | Resume):
                raise MalformedMessage("A session begins with 'open'.")
            session = self._session(opening, caller)
            if isinstance(channel, EventStream):
                self._posted[session.id] = channel
            left = await session.serve(channel, opening)
        except Gone:
            pass
        except MalformedMessage as error:
            failure = Failure(code="bad_message", message=str(error))
        except TandemError as error:
            failure = failure_of(error)
        except Exception:
            logger.exception("a session failed inside the companion")
            failure = Failure(code="internal_error", fallback="stream")
        finally:
            self.open_sessions -= counted
            if session is not None:
                if self._posted.get(session.id) is channel:
                    del self._posted[session.id]
                if left == "waits":
                    self.shelf.keep(session)
                elif left == "over":
                    await self.shelf.end(session)
        await channel.leave(failure)

    def _session(self, first: Open | Resume, caller: Caller) -> VerifySession:
        """The session that a socket's first message means. Raises TandemError."""
        if isinstance(first, Resume):
            return self.shelf.claim(first, caller)
        session = VerifySession(
            caller,
            resolve=lambda model: self._resolve(model, caller),
            read=read_open,
            linger_s=self._linger_s,
            distrusted=self._distrusted,
            paces=self._paces,
        )
        self.shelf.put(session)
        return session

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Where no WebSocket can be made: server-sent events down, POSTs up."""
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("Sessions are posted to, or upgraded to a WebSocket.")
            if scope["path"] != PATH:
                await self._post(scope, receive)
                await respond(send, 200, b"{}")
                return
            caller = self._admit("POST", scope)
            opening = read_message(await read_body(receive))
        except (Gone, OSError):
            return
        except MalformedMessage as error:
            refusal = InvalidRequest(str(error), code="bad_message")
            await respond(send, refusal.status, error_body(refusal))
            return
        except TandemError as error:
            await respond(send, error.status, error_body(error))
            return
        async with EventStream(receive, send) as stream:

            async def first() -> Message:
                return opening

            await self._serve(caller, stream, first)

    async def _post(self, scope: Scope, receive: Receive) -> None:
        """What the edge says in a session whose commits it reads as events."""
        caller = self._caller("POST", scope)
        id = scope["path"].removeprefix(PATH + "/")
        token, messages = read_posted(await read_body(receive))
        stream, session = self._posted.get(id), self.shelf.find(id)
        known = Resume(session=id, token=token, have_pos=0)
        if stream is None or session is None or not session.may_resume(caller, known):
            raise NotFound("No such session.")
        for message in messages:
            stream.put(message)
