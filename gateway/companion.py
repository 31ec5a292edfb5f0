"""The WebSocket endpoint of `tandem serve --companion`, as a plain ASGI application.

Who may connect is decided on the Upgrade, before the socket is accepted; what is asked is read by
the same dialects as over HTTP, so that a session and a POST with one body mean one prompt. What
happens inside a session is backends/speculative/verify.py's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, TypeAlias

from backends.speculative.parse import parse
from backends.speculative.seams import Ended, Gone, Target
from backends.speculative.session import (
    PATH,
    Failure,
    Message,
    Open,
    pack,
    pack_text,
)
from backends.speculative.verify import VerifySession
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import Draining, Forbidden, NotFound, Overloaded, TandemError
from gateway.core.exchange import Caller, ExchangeRecord, RecordDraft
from gateway.core.routing import Upstream
from gateway.dialects.base import Dialect
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.settle import Energy, note_cost
from gateway.wire.openai_shapes import error_body

logger = logging.getLogger("tandem.companion")

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Headers: TypeAlias = Mapping[str, str]

MAX_SESSIONS = 256
CLOSING_S = 0.02
_DIALECTS: Mapping[str, Dialect] = {"chat": OpenAIChat(), "completion": OpenAICompletions()}


class CompanionEndpoint:
    """Sessions at `PATH`. One instance per server; a session's state lives in its VerifySession.

    `guard` sees method and headers and refuses a foreign Host or Origin, `authenticate` tells who
    calls, and `resolve` finds the target that the caller means and may use; all three raise a
    TandemError. `ended` hears of every session that was accepted, once.
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
    ) -> None:
        self._guard = guard
        self._authenticate = authenticate
        self._resolve = resolve
        self._ended = ended
        self._max_sessions = max_sessions
        self.open_sessions = 0
        self._draining = draining
        self._sessions: set[VerifySession] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket. The caller has seen that it is one, at any path."""
        await receive()  # websocket.connect
        try:
            caller = self._admit(scope)
        except TandemError as error:
            await _refuse(scope, receive, send, error)
            return
        self.open_sessions += 1
        try:
            await send({"type": "websocket.accept"})
            await self._serve(caller, _Socket(receive, send))
        except OSError:
            pass  # it left while we were accepting; uvicorn says so with a kind of OSError
        finally:
            self.open_sessions -= 1

    def cut(self) -> None:
        """End every session with a message that says why: the grace of draining is over."""
        for session in tuple(self._sessions):
            session.stop(Draining(cut=True))

    def _admit(self, scope: Scope) -> Caller:
        if scope["path"] != PATH:
            raise NotFound(f"Sessions are at {PATH}.")
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self._guard("GET", headers)
        caller = self._authenticate(headers)
        if self._draining():
            raise Draining()
        if self.open_sessions >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are open.", retry_after=1)
        return caller

    async def _serve(self, caller: Caller, socket: _Socket) -> None:
        session = VerifySession(
            socket,
            caller,
            resolve=lambda model: self._resolve(model, caller),
            read=read_open,
        )
        self._sessions.add(session)
        try:
            ended = await session.run()
        except Exception:
            logger.exception("a session failed inside the companion")
            await socket.leave(Failure(code="internal_error", fallback="stream"))
            return
        finally:
            self._sessions.discard(session)
        if self._ended is not None:
            self._ended(ended)
        await socket.leave(None)


def read_open(opening: Open, caller: Caller) -> ChatRequest:
    """What an `open` asks for, as HTTP would have read it. Raises RequestError."""
    if opening.request is not None:
        return _DIALECTS[opening.endpoint].decode(opening.request, {})
    # Token ids: the sampling fields ride beside them, under OpenAI's names.
    sampling = opening.sampling
    needs = {Feature.COMPLETION, Feature.TOKEN_PROMPT}
    asked = {
        Feature.TOP_K: sampling.top_k is not None,
        Feature.MIN_P: sampling.min_p is not None,
        Feature.SEED: sampling.seed is not None,
        Feature.PENALTIES: bool(sampling.frequency_penalty or sampling.presence_penalty),
    }
    if opening.coupling == "greedy":
        sampling = replace(sampling, temperature=0.0)
    return ChatRequest(
        endpoint=Endpoint.COMPLETION,
        dialect="session",
        model=opening.model,
        prompt=opening.prompt_ids,
        sampling=sampling,
        stream=True,
        features=frozenset(needs | {feature for feature, there in asked.items() if there}),
    )


def resolver(targets: Mapping[str, Target]) -> Callable[[str, Caller], Target]:
    """Targets by the names that a caller may give; with a single one, "" is enough.

    The key's models and zone bind here as they do over HTTP.
    """

    def resolve(model: str, caller: Caller) -> Target:
        if not model and len(targets) == 1:
            model = next(iter(targets))
        target = targets.get(model)
        if target is None:
            raise NotFound("This companion has no such model.", param="model")
        if caller.models is not None and model not in caller.models:
            raise Forbidden("This key may not use that model.", param="model")
        if not caller.zone.admits(target.upstream.zone):
            raise Forbidden("This key's zone does not reach that model.", param="model")
        return target

    return resolve


def session_record(
    ended: Ended, upstream: Upstream, energy: Energy, created: float
) -> ExchangeRecord:
    """The record of a session that reached its target; `created` is its end, wall clock."""
    well = ended.outcome in ("ok", "cancelled")
    draft = RecordDraft(
        id="ses_" + secrets.token_hex(12),
        endpoint="session",
        model=ended.model,
        stream=True,
        tenant=ended.caller.tenant,
        key_id=ended.caller.key_id,
        zone=ended.caller.zone.label,
        created=created - ended.seconds,
        upstream=upstream.name,
        upstream_model=upstream.model,
        tier=upstream.tier,
        reason="pin",
        usage=ended.usage,
        duration_s=ended.seconds,
        outcome=ended.outcome if well else "upstream_error",
        error=None if well else ended.outcome,
        speculation={
            "strategy": "verify",
            "drafted": ended.drafted,
            "accepted": ended.accepted,
            "rounds": ended.rounds,
            "gain": None,
        },
    )
    draft.energy_j, draft.energy_estimated = energy(upstream, ended.seconds)
    note_cost(draft, upstream)
    return draft.freeze()


class _Socket:
    """An ASGI WebSocket as a session's channel. Answers in the kind of frame it is asked in."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._text = False

    async def receive(self) -> Message:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            raise Gone
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
        except OSError:
            raise Gone from None

    async def leave(self, failure: Failure | None) -> None:
        try:
            if failure is not None:
                await self.send(failure)
            await self._send({"type": "websocket.close", "code": 1011 if failure else 1000})
        except (Gone, OSError, RuntimeError):
            pass  # closed already, which is what was wanted


async def _refuse(scope: Scope, receive: Receive, send: Send, error: TandemError) -> None:
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
