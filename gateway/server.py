"""HTTP for the proxy paths, as raw ASGI: bytes in, one pipeline call, bytes out.

No framework stands on this way (relay.md: FastAPI costs 70 to 160 us a request); everything that is
not a proxy path goes to the FastAPI application in admin.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, TypeAlias

import orjson

from gateway import speculation
from gateway.core.errors import (
    BodyTooLarge,
    Draining,
    Internal,
    MethodNotAllowed,
    TandemError,
    WrongMediaType,
)
from gateway.core.events import Event
from gateway.core.exchange import Caller, Exchange, Reply
from gateway.core.routing import Tier
from gateway.core.sink import Whole
from gateway.dialects.base import Answering, Dialect
from gateway.pipeline import Pipeline
from gateway.record import to_json
from gateway.wire.openai_shapes import error_body
from gateway.wire.strict import parse

logger = logging.getLogger("tandem.server")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Mapping[str, str]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024

GONE = "tandem.gone"
"""A key of the ASGI scope, where the server in front of us has it: takes a function, and calls it
if the client leaves before its answer is whole. Elsewhere a task waits for `http.disconnect`."""
OUTLET = "tandem.outlet"
"""Another: an `Outlet`. Elsewhere each part of a body has to be awaited on its way."""


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class ProxyServer:
    """The proxy paths in front, another ASGI application behind.

    `guard` says who may speak at all (Host, Origin, content type); `authenticate` says who speaks.
    Both raise a TandemError. `cut` says whether a cancellation means that we are leaving.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        dialects: Mapping[str, Dialect],
        guard: Callable[[str, Headers], None],
        authenticate: Callable[[Headers], Caller],
        rest: App,
        max_body: int,
        cut: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._pipeline = pipeline
        self._dialects = dialects
        self._guard = guard
        self._authenticate = authenticate
        self._rest = rest
        self._max_body = max_body
        self.cut = cut
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        dialect = self._dialects.get(scope["path"]) if scope["type"] == "http" else None
        if dialect is None:
            await self._rest(scope, receive, send)
            return
        cycle = _Cycle(self, dialect, scope, receive, send)
        try:
            await cycle.run()
        except ClientGone:
            pass

    async def read_body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, never more than the limit in memory. Raises BodyTooLarge."""
        if headers.get("content-encoding", "identity") != "identity":
            raise WrongMediaType("Compressed request bodies are not read; send it plain.")
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._max_body} bytes.")


class _Cycle:
    """One request and its response; born and gone with it."""

    def __init__(
        self, server: ProxyServer, dialect: Dialect, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # The server's.
        self._server = server
        self._dialect = dialect
        # This connection's.
        self._scope = scope
        self._receive = receive
        self._send = send
        # This request's.
        self._id = new_id()
        self._arrived = server._clock()
        self._started = False
        self._ended = False
        self._gone = False
        self._trace = False

    async def run(self) -> None:
        try:
            exchange = await self._read()
        except TandemError as error:
            await self._fail(error)
            return
        except asyncio.CancelledError:
            if not self._server.cut():
                raise
            await self._fail(Draining())
            return
        task = asyncio.current_task()
        assert task is not None
        watch = self._watch(task)
        try:
            await self._answer(exchange)
        except asyncio.CancelledError:
            # Cancelled by the client's leaving, which has closed its upstream on the way here; or
            # at the end of the grace, while it waited for a client that does not read.
            if not (self._gone or self._server.cut()) or task.uncancel():
                raise
        finally:
            if watch is not None:
                watch.cancel()

    def _watch(self, task: asyncio.Task[Any]) -> asyncio.Task[None] | None:
        """Have the work cancelled as soon as nobody listens any more."""

        def leave() -> None:
            self._gone = True
            task.cancel()

        async def until_gone() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self._ended:
                leave()

        listen = self._scope.get(GONE)
        if listen is not None:
            listen(leave)
            return None
        return asyncio.create_task(until_gone())

    async def _read(self) -> Exchange:
        scope, server = self._scope, self._server
        headers = headers_of(scope)
        if scope["method"] != "POST":
            raise MethodNotAllowed("Use POST here.", headers={"allow": "POST"})
        server._guard(scope["method"], headers)
        caller = server._authenticate(headers)
        body = await server.read_body(headers, self._receive)
        request = self._dialect.decode(parse(body), headers)
        self._trace = headers.get("x-tandem-trace") == "1"
        return Exchange(
            id=self._id,
            caller=caller,
            request=request,
            arrived=self._arrived,
            headers=headers,
        )

    async def _answer(self, exchange: Exchange) -> None:
        try:
            reply = await self._server._pipeline.answer(exchange)
        except TandemError as error:
            await self._fail(error)
            return
        except Exception:
            logger.exception("request %s failed inside the gateway", self._id)
            await self._fail(Internal("The gateway failed; its log says why."))
            return
        try:
            if exchange.request.stream:
                await self._stream(exchange, reply)
            else:
                await self._whole(exchange, reply)
        finally:
            await reply.events.aclose()

    async def _stream(self, exchange: Exchange, reply: Reply) -> None:
        encoder = self._dialect.encoder(self._answering(exchange, reply), exchange.request)
        await self._begin(200, self._dialect.stream_media_type, headers_for(reply))
        outlet = self._scope.get(OUTLET)
        if outlet is None:
            frames = _Frames(encoder.encode, self._send)
        else:
            frames = _DirectFrames(encoder.encode, self._send, outlet)
        try:
            await reply.events.into(frames)
        except TandemError as error:
            tail = encoder.error(error)
        except Exception:
            logger.exception("request %s failed inside the gateway", self._id)
            tail = encoder.error(Internal("The gateway failed; its log says why."))
        else:
            tail = encoder.end()
            if self._trace:
                trace = orjson.dumps(to_json(reply.record.freeze())).decode()
                tail = encoder.comment(f"tandem {trace}") + tail
        await self._body(frames.rest() + tail, more=False)

    async def _whole(self, exchange: Exchange, reply: Reply) -> None:
        whole = Whole()
        try:
            await reply.events.into(whole)
        except TandemError as error:
            await self._fail(error)
            return
        except Exception:
            logger.exception("request %s failed inside the gateway", self._id)
            await self._fail(Internal("The gateway failed; its log says why."))
            return
        raw = whole.frame
        if raw is None:
            completion = whole.completion()
            if completion.usage is None:
                completion = replace(completion, usage=reply.record.usage)
            raw = self._dialect.encode(
                completion, self._answering(exchange, reply), exchange.request
            )
        headers = [
            *headers_for(reply),
            *outcome_headers(reply),
            (b"content-length", b"%d" % len(raw)),
        ]
        await self._begin(200, self._dialect.media_type, headers)
        await self._body(raw, more=False)

    def _answering(self, exchange: Exchange, reply: Reply) -> Answering:
        prefix = "chatcmpl-" if exchange.request.endpoint == "chat" else "cmpl-"
        return Answering(
            id=prefix + self._id.removeprefix("req_"),
            created=int(reply.record.created),
            model=exchange.request.model,
            ttft_s=reply.record.ttft_s,
            duration_s=self._server._clock() - self._arrived,
        )

    async def _fail(self, error: TandemError) -> None:
        if self._started:
            return
        body = self._dialect.error(error)
        headers = {**error_headers(error), "content-length": str(len(body))}
        await self._begin(error.status, "application/json", _raw(headers))
        await self._body(body, more=False)

    async def _begin(self, status: int, media_type: str, headers: RawHeaders) -> None:
        self._started = True
        took_ms = int((self._server._clock() - self._arrived) * 1e3)
        raw = [
            (b"content-type", media_type.encode("latin-1")),
            (b"x-request-id", self._id.encode("latin-1")),
            (b"openai-processing-ms", b"%d" % took_ms),
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        self._ended = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


class Outlet(Protocol):
    """The way to the client for a streamed body, once its head was sent."""

    def write(self, data: bytes) -> None:
        """More of the body, without waiting. Nothing, if the client has left."""

    @property
    def full(self) -> bool:
        """Whether the client is behind."""

    async def room(self) -> None:
        """Wait until it is not."""


class _Frames:
    """A sink that encodes events in the client's dialect, for any ASGI server: frames wait here for
    somebody who can wait while they are sent.
    """

    def __init__(self, encode: Callable[[Event], bytes], send: Send) -> None:
        self._encode = encode
        self._send = send
        self._waiting: list[bytes] = []

    def put(self, event: Event) -> None:
        data = self._encode(event)
        if data:
            self._waiting.append(data)

    def flush(self) -> None:
        pass

    def hand(self, event: Event) -> bool:
        self.put(event)
        return not self._waiting

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    async def room(self) -> None:
        if data := self.rest():
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def rest(self) -> bytes:
        """What was put and has not gone out."""
        waiting, self._waiting = self._waiting, []
        return waiting[0] if len(waiting) == 1 else b"".join(waiting)


class _DirectFrames(_Frames):
    """The same, for a server that can be written to at any time."""

    def __init__(self, encode: Callable[[Event], bytes], send: Send, outlet: Outlet) -> None:
        super().__init__(encode, send)
        self._outlet = outlet

    def flush(self) -> None:
        waiting = self._waiting
        if len(waiting) == 1:  # nearly always
            self._outlet.write(waiting.pop())
        elif waiting:
            self._outlet.write(self.rest())

    def hand(self, event: Event) -> bool:
        if self._waiting:
            self.put(event)
            self.flush()
        elif data := self._encode(event):
            self._outlet.write(data)
        return not self._outlet.full

    @property
    def full(self) -> bool:
        return self._outlet.full

    async def room(self) -> None:
        await self._outlet.room()


def new_id() -> str:
    return "req_" + os.urandom(12).hex()


def headers_of(scope: Scope) -> dict[str, str]:
    """Request headers by lower-case name; the last of a repeated one wins.

    Raises BodyTooLarge: httptools itself accepts megabytes of headers (operations.md 0.5).
    """
    raw = scope["headers"]
    if len(raw) > MAX_HEADERS or sum(map(len, chain.from_iterable(raw))) > MAX_HEADER_BYTES:
        raise BodyTooLarge("The request's headers are too large.", code="headers_too_large")
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def headers_for(reply: Reply) -> RawHeaders:
    """The plan, as headers: known before the first byte."""
    record = reply.record
    headers = [
        *_plan_headers(
            record.upstream, record.tier, record.reason, record.rule, record.cache, record.stream
        )
    ]
    if record.score is not None:
        headers.append((b"x-tandem-score", b"%.4f" % record.score))
    if record.ignored:
        headers.append((b"x-tandem-ignored", ",".join(record.ignored)[:1024].encode("latin-1")))
    if record.strategy and (record.stream or (record.approximate and not record.speculation)):
        headers.append((b"x-tandem-spec", record.strategy.encode("latin-1")))
    return headers


@lru_cache(maxsize=1024)  # the names are the configuration's: few, and the same each time
def _plan_headers(
    upstream: str, tier: Tier, reason: str, rule: str | None, cache: str, stream: bool
) -> tuple[tuple[bytes, bytes], ...]:
    headers = {
        "x-tandem-route": upstream,
        "x-tandem-tier": tier.value,
        "x-tandem-reason": f"{reason}:{rule}" if rule else reason,
        "x-tandem-cache": cache,
    }
    if stream:
        headers["cache-control"] = "no-cache"
        headers["x-accel-buffering"] = "no"
    return tuple(_raw(headers))


def _raw(headers: Headers) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def outcome_headers(reply: Reply) -> RawHeaders:
    """What it came to, as headers: known once the whole answer is there."""
    record = reply.record
    headers = []
    if record.cost_known and record.cost_usd is not None:
        cost = (b"%.8f" % record.cost_usd).rstrip(b"0").rstrip(b".")
        headers.append((b"x-tandem-cost-usd", cost))
    if record.speculation is not None:
        headers.append((b"x-tandem-spec", speculation.header(record.speculation).encode("latin-1")))
    return headers


def error_headers(error: TandemError) -> dict[str, str]:
    headers = {"x-tandem-error-source": error.source, **error.headers}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    elif error.status >= 500 or error.status == 429:
        # Our own fallbacks are spent; an SDK's two retries on top would multiply attempts.
        headers["x-should-retry"] = "false"
    return headers


async def send_error(send: Send, error: TandemError, request_id: str) -> None:
    """An OpenAI-shaped error for paths outside the dialects."""
    body = error_body(error)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        **error_headers(error),
    }
    start = {"type": "http.response.start", "status": error.status, "headers": _raw(headers)}
    await send(start)
    await send({"type": "http.response.body", "body": body})
