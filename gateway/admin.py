"""Everything that is not the hot path: models, health, records, metrics, the OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from backends.speculative.rung import Laddered
from gateway import __version__
from gateway.admission import Admission
from gateway.asgi import App, Receive, Scope, Send
from gateway.core.chat import Feature
from gateway.core.errors import BodyTooLarge, MethodNotAllowed, NotFound, TandemError
from gateway.core.exchange import Caller, Exchange
from gateway.core.routing import Upstream, Zone
from gateway.dialects.base import Dialect
from gateway.feedback import SCHEMA, read_feedback
from gateway.fleet import Fleet
from gateway.headers import error_headers, headers_of, new_id
from gateway.plan import Alias
from gateway.record import RecordStore, to_json
from gateway.schema import proxy_paths
from gateway.wire.openai_shapes import error_json
from gateway.wire.strict import parse

Headers = Mapping[str, str]

MOST_FEEDBACK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """What the admin paths look at. `operators`: nobody else can reach this port. `once`: headers
    that rules look at.
    """

    fleet: Fleet
    aliases: Mapping[str, Alias]
    admission: Admission
    records: RecordStore
    guard: Callable[[str, Headers], None]
    authenticate: Callable[[Headers], Caller]
    local_models: Callable[[], Mapping[str, Mapping[str, Any]]]
    render_metrics: Callable[[str], tuple[bytes, str]]
    metrics_here: bool
    dialects: Mapping[str, Dialect]
    max_body: int
    explain: Callable[[Exchange], Awaitable[dict[str, Any]]]
    decisions: Callable[[int, str | None], list[dict[str, Any]]]
    feedback: Callable[[str, str, float], None] | None
    once: Collection[str]
    operators: bool


def admin_app(parts: AdminParts) -> App:
    """The public paths beside the proxy, and /metrics when this port is private enough."""
    app = FastAPI(title="Tandem", version=__version__, docs_url=None, redoc_url=None)
    _handle_errors(app)

    def caller(request: Request) -> Caller:
        headers = headers_of(request.scope)
        parts.guard(request.method, headers)
        return parts.authenticate(headers)

    @app.get("/livez")
    @app.get("/health")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> Response:
        health = parts.fleet.health()
        states = [each.ok for each in health.values()]
        good = any(states) and not parts.admission.draining
        body: dict[str, Any] = {
            "status": "ready" if good else "not ready",
            "upstreams_up": states.count(True),
            "upstreams_down": states.count(False),
        }
        if parts.metrics_here:  # loopback, or the admin port: why is for operators' eyes
            body["down"] = {name: each.detail for name, each in health.items() if not each.ok}
            body["local_models"] = parts.local_models()
        return JSONResponse(body, status_code=200 if good else 503)

    @app.get("/v1/models")
    @app.get("/models", include_in_schema=False)
    async def models(request: Request) -> dict[str, Any]:
        entries = _entries(parts, caller(request))
        return {"object": "list", "data": list(entries.values())}

    @app.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        entry = _entries(parts, caller(request)).get(model)
        if entry is None:
            raise NotFound(
                f"The model {model[:120]!r} does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        return entry

    @app.get("/v1/requests/{request_id}")
    async def record(request_id: str, request: Request) -> dict[str, Any]:
        """What happened to one request, for the key that made it."""
        found = parts.records.get(request_id, caller(request).key_id)
        if found is None:
            raise NotFound("There is no record of that request.", code="record_not_found")
        return to_json(found)

    @app.post("/v1/feedback", openapi_extra=SCHEMA)
    async def feedback(request: Request) -> dict[str, Any]:
        """What the client thinks of an answer, for the router to learn from. Of several the last
        one counts; a comment is not kept.
        """
        who = caller(request)
        if parts.feedback is None:
            raise NotFound("No feedback is kept here (router.labels).", code="feedback_off")
        said = read_feedback(parse(await _body(request, MOST_FEEDBACK)))
        if parts.records.get(said.id, who.key_id) is None:
            raise NotFound("There is no record of that request.", code="record_not_found")
        parts.feedback(said.id, who.key_id, said.score)
        return {"object": "feedback", "id": said.id, "score": said.score}

    @app.post("/v1/route/explain")
    async def explain(request: Request, path: str = "/v1/chat/completions") -> dict[str, Any]:
        """Where a request would go, phase by phase, without sending it. The body is the request as
        it would be sent to `path`.
        """
        who = caller(request)
        dialect = parts.dialects.get(path)
        if dialect is None:
            raise NotFound(f"No requests are taken at {path[:120]!r}.", param="path")
        headers = headers_of(request.scope, parts.once)
        return await parts.explain(
            Exchange(
                id="explain",
                caller=who,
                request=dialect.decode(parse(await _body(request, parts.max_body)), headers),
                arrived=asyncio.get_running_loop().time(),
                headers=headers,
            )
        )

    if parts.metrics_here:

        @app.get("/v1/route/decisions")
        async def decisions(
            request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100
        ) -> dict[str, Any]:
            """The last routing decisions, the newest first: no contents, no header's words."""
            key_id = None if parts.operators else caller(request).key_id
            return {"object": "list", "data": parts.decisions(limit, key_id)}

        @app.get("/metrics")
        async def metrics(request: Request) -> Response:
            accept = request.headers.get("accept", "")
            # Rendering takes milliseconds of Python; every live stream would stall with it.
            body, content_type = await asyncio.to_thread(parts.render_metrics, accept)
            return Response(body, media_type=content_type)

        @app.get("/v1/router")
        async def router(request: Request) -> dict[str, Any]:
            """What the learned policy keeps, alias by alias: its share, its cap, its shadow."""
            if not parts.operators:
                caller(request)
            aliases = parts.aliases.items()
            states = {n: a.assessor.state() for n, a in aliases if a.assessor is not None}
            return {"object": "router", "aliases": states}

    _describe_proxy(app)
    return _identified(app)


async def _body(request: Request, most: int) -> bytes:
    """The whole body, never more than `most` bytes of it in memory. Raises BodyTooLarge."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise BodyTooLarge(f"The body is larger than {most} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def _identified(app: App) -> App:
    """Every answer carries an `x-request-id`, these too; and a GET can be a HEAD, as `curl -I`,
    `wget --spider` and uptime checks ask.
    """

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                mark = (b"x-request-id", new_id().encode())
                message = {**message, "headers": [*message["headers"], mark]}
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await app(scope, receive, marked)

    return identified


def _entries(parts: AdminParts, caller: Caller) -> dict[str, dict[str, Any]]:
    """Aliases first, then upstreams: what a client may name as `model`."""
    by_name = {upstream.name: upstream for upstream in parts.fleet.upstreams()}
    entries = {
        name: _entry(name, [by_name[c] for c in alias.candidates])
        for name, alias in parts.aliases.items()
    }
    entries |= {name: _entry(name, [upstream]) for name, upstream in by_name.items()}
    for name, told in parts.local_models().items():
        entries[name] |= told
    for name in by_name:
        backend = parts.fleet.within(Zone.PUBLIC).backend(name)
        rung = backend.rung if isinstance(backend, Laddered) else None
        if rung is not None:
            told = {"strategy": rung.strategy, "state": rung.state, "reason": rung.reason}
            entries[name]["speculation"] = told
    return {name: entry for name, entry in entries.items() if caller.may_name(name)}


def _entry(name: str, upstreams: list[Upstream]) -> dict[str, Any]:
    """One model card. What an alias promises is what all its upstreams can do."""
    contexts = [upstream.context for upstream in upstreams if upstream.context]
    context = min(contexts) if contexts else None
    tiers = {upstream.tier.value for upstream in upstreams}
    features = frozenset.union(*(u.features for u in upstreams)) if upstreams else frozenset()
    return {
        "id": name,
        "object": "model",
        "created": max((upstream.created for upstream in upstreams), default=0),
        "owned_by": "tandem",
        "type": "base",  # the mistralai SDK refuses an entry without it (clients.md trap 11)
        "tier": tiers.pop() if len(tiers) == 1 else "mixed",
        "zone": max(upstream.zone for upstream in upstreams).label if upstreams else None,
        "context_length": context,
        "max_model_len": context,
        "capabilities": {
            "completion_chat": Feature.CHAT in features,
            "completion_fim": Feature.FIM in features,
            "function_calling": Feature.TOOLS in features,
            "vision": Feature.IMAGES in features,
        },
        "features": sorted(feature.value for feature in features),
        "approximate": any(upstream.approximate for upstream in upstreams),
        "upstreams": [upstream.name for upstream in upstreams],
    }


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(TandemError)
    async def ours(request: Request, error: TandemError) -> Response:
        headers = error_headers(error)
        return JSONResponse(error_json(error), status_code=error.status, headers=headers)

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:120]
        if error.status_code == 405:
            allow = dict(error.headers or {})
            return await ours(
                request, MethodNotAllowed(f"Use {allow['Allow']} here.", headers=allow)
            )
        message = f"There is no {path!r} here. GET /v1/models lists models, /openapi.json paths."
        return await ours(request, NotFound(message, code="unknown_path"))


def _describe_proxy(app: FastAPI) -> None:
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            paths, schemas = proxy_paths()
            document["paths"] = {**paths, **document["paths"]}
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            app.openapi_schema = document
        schema: dict[str, Any] = app.openapi_schema
        return schema

    app.openapi = described  # type: ignore[method-assign]
