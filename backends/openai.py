"""Any server of the OpenAI wire as a Backend: Groq, vLLM, OpenAI, a Tandem companion, and more.

What differs between them is data (profiles.py). When the client speaks the same wire, each event
carries the frame it came from, so that the dialect can pass the upstream's own bytes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import httpx
import orjson

from backends import prefix
from backends.base import Health, Options, Resources
from backends.clocks import Clock
from backends.discovery import Served, served
from backends.door import Answer, Target
from backends.http import HttpUpstream, default_transport, http2_transport
from backends.openai_options import OpenAIOptions
from backends.openai_raw import RawDoor
from backends.profiles import Continuation, Reasoning
from backends.rate_limits import RateLimits
from backends.rate_limits import read as read_limits
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import InvalidRequest, TandemError, UpstreamUnreachable
from gateway.core.events import Document, Event, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Upstream
from gateway.core.sink import Sink
from gateway.wire import vectors
from gateway.wire.chunk_stream import ChunkStream
from gateway.wire.inline_reasoning import InlineReasoning
from gateway.wire.openai import read_document
from gateway.wire.openai_body import openai_body
from gateway.wire.openai_embeddings import read_embeddings
from gateway.wire.openai_errors import Reported
from gateway.wire.sse import FrameTooLarge
from gateway.wire.upstream_json import Malformed

OWN_DIALECTS: Final = {
    "openai_chat": "chat/completions",
    "openai_completions": "completions",
    "openai_embeddings": "embeddings",
}
"""Dialects whose wire is the upstream's own, and the path each lives at."""

DISCOVERY_TIMEOUT_S = 1.0


class OpenAIBackend:
    """One upstream that speaks OpenAI's wire."""

    options_model: ClassVar[type[Options]] = OpenAIOptions

    def __init__(self, name: str, options: OpenAIOptions, resources: Resources) -> None:
        self.options = options
        self.profile = options.facts()
        base_url = options.base_url or self.profile.base_url
        assert base_url is not None  # OpenAIOptions has seen to it
        self._root = httpx.URL(base_url.removesuffix("/v1") + "/")
        self._api = self._root.join("v1/") if self.profile.versioned else httpx.URL(base_url + "/")
        usual = http2_transport if options.http2 else default_transport
        self._http = HttpUpstream(
            name=name,
            host=self._api.netloc.decode("ascii"),
            zone=options.zone,
            transport=(resources.transport or usual)(),
            api_key=options.api_key.get_secret_value() if options.api_key else None,
            timeouts=options.timeouts,
            max_body_bytes=options.max_body_bytes,
            now=resources.clock,
        )
        self._targets = {
            path: self._http.target(self._api.join(path)) for path in OWN_DIALECTS.values()
        }
        self.raw = RawDoor(self._http, root=self._root, api=self._api)
        """For those who must say what no ChatRequest can: probes, lists of token ids."""
        self._goes_on, self._repeats = options.goes_on()
        self._thinks = options.thinks()
        self._learned = not self.profile.self_hosted
        self._upstream = Upstream(
            name=name,
            kind=options.kind,
            tier=options.tier_or_default(),
            zone=options.zone,
            model=options.model,
            context=options.context,
            features=self._corrected(self.profile.features_for(options.model)),
            price=options.price_or_listed(),
            watts=options.watts,
            carries_body=True,
            honours=self.profile.honoured,
            ignores=self.profile.ignored_for(options.model),
            continues=self._continued(),
        )
        self._gate = self.profile.gate(self._upstream.features)

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    @property
    def http(self) -> HttpUpstream:
        """The door to this server, for what else is asked of it."""
        return self._http

    @property
    def rate_limits(self) -> RateLimits:
        """What the latest answer said of the upstream's limits; read only when asked."""
        headers, seen = self._http.limits_seen
        return read_limits(headers, now=seen, windows=self.profile.limit_windows)

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()

    async def start(self) -> None:
        """Ask an own server what it serves; one that is down is asked again by `health`."""
        if not self._learned:
            await self._learn()

    def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        if request.continues:
            return prefix.rest(self._said(request, call), request, repeats=self._repeats)
        return self._said(request, call)

    async def _said(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, Sink | None]:
        if not self._upstream.model:
            raise UpstreamUnreachable(
                f"Upstream {self._upstream.name!r} has not said yet which model it serves."
            )
        own_wire = request.dialect in OWN_DIALECTS
        body = orjson.dumps(self.body(request))
        clock = self._http.clock(call, streaming=request.stream)
        expect = "text/event-stream" if request.stream else "application/json"
        answer = await self._http.post(self._target(request), body, call, clock, expect=expect)
        try:
            if not request.stream:
                document = await self._http.read(answer, clock)
                if request.endpoint is Endpoint.EMBEDDINGS:
                    yield self._embeddings(document, request)
                else:
                    thoughts = self._thoughts(request)
                    whole = thoughts.document(document) if thoughts else document
                    yield self._document(whole, own_wire)
                return
            stream = ChunkStream(
                own_wire=own_wire,
                usage_paths=self.profile.usage_paths,
                max_frame=self.options.max_event_bytes,
                thoughts=self._thoughts(request),
            )
            sink: Sink | None = None
            while not (stream.done or sink) and (part := await self._http.part(answer, clock)):
                events = stream.read(part)
                for event in events:
                    sink = yield event
                    if is_content(event):
                        clock.restart()
                    if sink is not None:
                        await self._push(answer, stream, events, sink, clock)
                        break
            if stream.done:
                if sink is not None and answer.whole() is None:
                    sink.flush()  # the end of the body may be a while
                await self._http.drain(answer, clock)
            elif not stream.complete:
                raise self._http.broken("ended its stream without a finish")
        except (FrameTooLarge, Malformed, Reported) as error:
            raise self._flaw(error, "event" if request.stream else "answer") from None
        finally:
            await self._http.close(answer, clock)

    async def _push(
        self,
        answer: Answer,
        stream: ChunkStream,
        begun: Iterator[Event],
        sink: Sink,
        clock: Clock,
    ) -> None:
        """Put the rest into the sink: what has come already, then each read of the socket."""

        def put(events: Iterator[Event]) -> bool:
            try:
                for event in events:
                    sink.put(event)
                    if is_content(event):
                        clock.restart()
            finally:
                if not stream.done:  # else the rest goes with the end that the dialect has
                    sink.flush()
            return not (stream.done or sink.full)

        def take(part: bytes) -> bool:
            event = stream.read_one(part)
            if event is None:
                return put(stream.read(part))
            room = sink.hand(event)
            clock.restart()  # only text is known at sight
            return room

        ended = False
        put(begun)
        while not (stream.done or ended):
            if sink.full:
                await sink.room()
                clock.restart()  # only waiting for the upstream counts
            ended = await self._http.push(answer, take, clock)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """What is sent: the client's own body where the wire is the same, made to fit."""
        own_wire = request.dialect in OWN_DIALECTS
        body = dict(request.body) if own_wire else openai_body(request)
        body = self._gate.kept(body)
        body["model"] = self._upstream.model
        if request.endpoint is Endpoint.EMBEDDINGS and not self.profile.base64:
            body.pop("encoding_format", None)  # what comes is floats, and made what was asked for
        if request.continues:
            prefix.ask(body, request, self._goes_on)
        for theirs, ours in self.profile.renames.items():
            if theirs in body:
                body[ours] = body.pop(theirs)
        for name, value in self.profile.defaults.items():
            body.setdefault(name, value)
        if not request.stream:
            return body
        body["stream"] = True
        # Usage is asked for even if the client did not: cost needs it, and the dialect takes the
        # extra chunk out again.
        asked = body.pop("stream_options", None)
        if self.profile.stream_usage:
            given = asked if isinstance(asked, Mapping) else {}
            body["stream_options"] = {**given, "include_usage": True}
        return body

    async def count(self, request: ChatRequest) -> int | None:
        return None

    async def health(self) -> Health:
        """Asks an own server; a provider's API is judged by its answers alone."""
        if self.profile.health_path is None:
            return Health(ok=True, detail="judged by its answers")
        url = self._root.join(self.profile.health_path.lstrip("/"))
        try:
            status, _ = await self._http.get(url, self.options.timeouts.connect)
        except TandemError as error:
            return Health(ok=False, detail=error.message)
        if status != httpx.codes.OK:
            return Health(ok=False, detail=f"{self.profile.health_path} answered {status}")
        if not self._learned:
            await self._learn()
        return Health(ok=True)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _learn(self) -> None:
        try:
            status, body = await self._http.get(self._api.join("models"), DISCOVERY_TIMEOUT_S)
            found = served(body, self.options.model) if status == httpx.codes.OK else None
        except (TandemError, Malformed):
            return
        if found is not None:
            self._upstream = self._grown(found)
            self._gate = self.profile.gate(self._upstream.features)
            self._learned = True

    def _grown(self, found: Served) -> Upstream:
        """The upstream with what it said of itself; what the operator said stays."""
        model = self.options.model or found.model
        features = self.profile.features_for(model) if found.features is None else found.features
        return replace(
            self._upstream,
            model=model,
            context=self.options.context or found.context,
            features=self._corrected(features),
            created=found.created,
            ignores=self.profile.ignored_for(model),
        )

    def _corrected(self, features: frozenset[Feature]) -> frozenset[Feature]:
        return (features | set(self.options.extra_features)) - set(self.options.without_features)

    def _continued(self) -> frozenset[Endpoint]:
        """A text goes on as a longer prompt; a chat only where the server has a way to say so."""
        chat = self._goes_on is not Continuation.NONE
        return frozenset({Endpoint.COMPLETION, Endpoint.CHAT} if chat else {Endpoint.COMPLETION})

    def _target(self, request: ChatRequest) -> Target:
        path = OWN_DIALECTS.get(request.dialect)
        if path is None:
            chat = request.endpoint is Endpoint.CHAT
            path = "chat/completions" if chat else "completions"
        return self._targets[path]

    def _thoughts(self, request: ChatRequest) -> InlineReasoning | None:
        """Who takes thoughts out of the text; nobody where they cannot be, or are the client's.

        Who goes on with a text is past its thoughts.
        """
        if request.endpoint is not Endpoint.CHAT or request.continues:
            return None
        if self._thinks not in (Reasoning.INLINE, Reasoning.INLINE_OPEN):
            return None
        return InlineReasoning(opened=self._thinks is Reasoning.INLINE_OPEN)

    def _flaw(self, error: FrameTooLarge | Malformed | Reported, what: str) -> TandemError:
        """The error for an answer that cannot be read, or is an error itself."""
        if isinstance(error, Reported):
            return self._http.reported(error.error)
        if isinstance(error, FrameTooLarge):
            return self._http.broken(f"sent {error}", code="upstream_too_large")
        return self._http.broken(f"sent a malformed {what}: {error}")

    def _document(self, body: bytes, own_wire: bool) -> Document:
        completion = read_document(body, self.profile.usage_paths)
        return Document(completion=completion, frame=body if own_wire else None)

    def _embeddings(self, body: bytes, request: ChatRequest) -> Document:
        """The answer's own bytes if it is what was asked for, else its vectors made to be."""
        completion, formats = read_embeddings(body, len(request.inputs))
        try:
            made = tuple(vectors.shortened(v, request.dimensions) for v in completion.vectors)
        except ValueError as error:
            raise InvalidRequest(f"{error}.", param="dimensions") from None
        as_asked = formats == {request.body.get("encoding_format") or "float"}
        untouched = as_asked and made == completion.vectors
        return Document(
            completion=replace(completion, vectors=made), frame=body if untouched else None
        )
