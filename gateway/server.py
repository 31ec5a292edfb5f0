"""HTTP for the proxy paths, as raw ASGI: bytes in, one pipeline call, bytes out.

No framework stands on this way (relay.md: FastAPI costs 70 to 160 us a request); everything that is
not a proxy path goes to the FastAPI application in admin.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.asgi import GONE, OUTLET, App, Headers, RawHeaders, Receive, Scope, Send
from gateway.core.errors import (
    BodyTooLarge,
    Draining,
    Internal,
    MethodNotAllowed,
    TandemError,
    WrongMediaType,
)
from gateway.core.exchange import Caller, Exchange, Reply
from gateway.core.sink import Whole
from gateway.dialects.base import Answering, Dialect
from gateway.frames import DirectFrames, Frames
from gateway.headers import encoded, error_headers, headers_for, headers_of, new_id, outcome_headers
from gateway.pipeline import Pipeline
from gateway.record import to_json
from gateway.wire.strict import parse

logger = logging.getLogger("tandem.server")


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
        headers = headers_of(scope, server._pipeline.planner.rulebook.headers)
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
            frames = Frames(encoder.encode, self._send)
        else:
            frames = DirectFrames(encoder.encode, self._send, outlet)
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
        await self._begin(error.status, "application/json", encoded(headers))
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
