"""Everything that one configuration makes. A reload makes the next, whole, before it takes over.

Here concrete parts are picked; app.py has what outlives a configuration. An upstream whose options
and parts are the same in the next configuration goes over as it is: its worker, its connections and
what is known of its health are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backends import BACKENDS
from backends.base import Backend, Resources
from backends.engine.backend import LlamaCppBackend
from backends.http import default_transport
from backends.speculative.seams import Ended
from backends.speculative.session import PATH
from gateway.admin import AdminParts, admin_app
from gateway.admission import Admission
from gateway.asgi import App, Receive, Scope, Send
from gateway.balancer import Balancer
from gateway.cache.base import Cache
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.config import Config
from gateway.conversations import Conversations
from gateway.core.events import Collector
from gateway.core.exchange import Exchange, ExchangeRecord
from gateway.core.registry import load
from gateway.cors import AllowedOrigins
from gateway.decisions import Decisions
from gateway.detect.detector import Hooked, PatternDetector
from gateway.detect.hook import FunctionHook, HttpHook
from gateway.detect.patterns import patterns
from gateway.dialects import DIALECTS
from gateway.dialects.base import Dialect
from gateway.epoch import Epoch
from gateway.explain import explain
from gateway.fleet import Fleet
from gateway.labels import LabelLog
from gateway.limits.keys import Keys, is_loopback
from gateway.limits.local_origin import LocalOrigin
from gateway.pipeline import Pipeline
from gateway.plan import Plan, Planner, Rulebook
from gateway.privacy import Detector
from gateway.record import RecordStore
from gateway.rulebook import rulebook
from gateway.server import ProxyServer
from gateway.settle import Energy
from gateway.tightened import Tightened
from gateway.token_pace import TokenPaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every generation uses, and none owns."""

    resources: Resources
    admission: Admission
    records: RecordStore
    cache: Cache | None
    energy: Energy
    record: Callable[[ExchangeRecord], None]
    decisions: Decisions
    labels: LabelLog | None
    paces: TokenPaces
    conversations: Conversations
    tightened: Tightened
    session_ended: Callable[[Ended], None]
    render_metrics: Callable[[str], tuple[bytes, str]]
    companion: bool


class Generation:
    """One configuration at work. `before` is the one that it follows."""

    def __init__(self, config: Config, shared: Shared, before: Generation | None = None) -> None:
        self.config = config
        self._shared = shared
        kept = unchanged(config, before.config, before.backends) if before else {}
        self.backends: dict[str, Backend] = build_backends(config, shared.resources, kept)
        known = before.fleet if before else None
        self.fleet: Fleet = Fleet(self.backends, time.monotonic, known)
        self.balancer: Balancer = before.balancer if before else Balancer()
        self.keys = Keys(config.callers)
        self.detector = detector(config)
        self.pipeline = Pipeline(
            fleet=self.fleet,
            planner=Planner(
                self.fleet,
                rulebook(
                    config,
                    before.rulebook if before else None,
                    detector=self.detector,
                    conversations=shared.conversations,
                    tightened=shared.tightened,
                ),
                self.balancer,
            ),
            admission=shared.admission,
            cache=shared.cache,
            record=shared.record,
            energy=shared.energy,
            clock=time.monotonic,
            wall=time.time,
            decided=self._decided,
            answered=None if shared.labels is None else self._answered,
        )
        walls = LocalOrigin(
            allowed_hosts=config.server.allowed_hosts,
            allowed_origins=config.server.allowed_origins,
        )
        self._guard = nobody_else if config.callers else walls.check
        self._sessions = self._companion()
        dialects: dict[str, Dialect] = {
            path: load(DIALECTS, path, what="path")() for path in DIALECTS
        }
        self._dialects = dialects | {
            path.removeprefix("/v1"): each for path, each in dialects.items()
        }
        loopback = is_loopback(config.server.host)
        self.epoch = Epoch(
            public=self._public(self._admin(metrics_here=loopback)),
            private=self._admin(metrics_here=True, operators=True),
        )

    @property
    def rulebook(self) -> Rulebook:
        return self.pipeline.planner.rulebook

    def retire(self) -> None:
        """Nothing begins under it any more."""
        self._sessions.retire()

    def cut(self) -> None:
        """End what is still inside: the grace is over."""
        self.epoch.cut()
        self._sessions.cut()

    async def aclose(self, after: Generation | None = None) -> None:
        """Stop everything, but for what `after` goes on with."""
        await self.fleet.aclose(after.fleet if after else None)
        if self.detector is not None:
            await self.detector.aclose()

    @property
    def local(self) -> dict[str, LlamaCppBackend]:
        return {n: b for n, b in self.backends.items() if isinstance(b, LlamaCppBackend)}

    def local_models(self) -> dict[str, Mapping[str, Any]]:
        """What each local model is doing in memory: cold, queued, loading, loaded, unloading."""
        pool = self._shared.resources.pool
        return {
            name: pool.progress(backend.resident)
            for name, backend in self.local.items()
            if pool is not None and backend.resident in pool.models
        }

    def _decided(self, exchange: Exchange, plan: Plan) -> None:
        self._shared.decisions.note(exchange, plan, time.time())

    def _answered(
        self, exchange: Exchange, plan: Plan, collector: Collector | None, record: ExchangeRecord
    ) -> None:
        assert self._shared.labels is not None  # nobody else asks
        kind = plan.route.candidates[0].upstream.kind
        artifact = self.config.router.artifact
        self._shared.labels.answered(exchange, plan.facts, kind, collector, record, artifact)

    async def _explain(self, exchange: Exchange) -> dict[str, Any]:
        return await explain(self.pipeline.planner, exchange, self._shared.paces.of)

    def _admin(self, *, metrics_here: bool, operators: bool = False) -> App:
        return admin_app(
            AdminParts(
                fleet=self.fleet,
                aliases=self.pipeline.planner.rulebook.aliases,
                admission=self._shared.admission,
                records=self._shared.records,
                guard=self._guard,
                authenticate=self.keys.authenticate,
                local_models=self.local_models,
                render_metrics=self._shared.render_metrics,
                metrics_here=metrics_here,
                dialects=self._dialects,
                max_body=self.config.server.max_body,
                explain=self._explain,
                decisions=self._shared.decisions.latest,
                feedback=self._shared.labels.feedback if self._shared.labels else None,
                once=self.rulebook.headers,
                operators=operators,
            )
        )

    def _companion(self) -> CompanionEndpoint:
        return CompanionEndpoint(
            guard=self._guard,
            authenticate=self.keys.authenticate,
            resolve=resolver(self.local),
            ended=self._shared.session_ended,
            draining=lambda: self._shared.admission.draining,
        )

    def _public(self, admin: App) -> App:
        proxy = ProxyServer(
            pipeline=self.pipeline,
            dialects=self._dialects,
            guard=self._guard,
            authenticate=self.keys.authenticate,
            rest=_Rest(admin, self._sessions if self._shared.companion else None),
            max_body=self.config.server.max_body,
            cut=lambda: self._shared.admission.over,
            clock=time.monotonic,
        )
        origins = self.config.server.allowed_origins
        return AllowedOrigins(proxy, origins) if origins else proxy


class _Rest:
    """What is not a proxy path: a companion's sessions, and FastAPI for the rest of HTTP."""

    def __init__(self, admin: App, sessions: CompanionEndpoint | None) -> None:
        self._admin = admin
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if self._sessions is not None:
                await self._sessions(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            ours = scope["path"] == PATH or scope["path"].startswith(PATH + "/")
            if ours and self._sessions is not None:
                await self._sessions(scope, receive, send)
            else:
                await self._admin(scope, receive, send)


def unchanged(
    config: Config, before: Config, backends: Mapping[str, Backend]
) -> dict[str, Backend]:
    """The backends that `config` goes on with: same options, and so all their parts."""
    kept: dict[str, Backend] = {}
    for name in config.build_order:
        options = config.upstreams[name]
        parts = load(BACKENDS, options.kind, what="kind").parts(options)
        if options == before.upstreams.get(name) and all(part in kept for part in parts):
            kept[name] = backends[name]
    return kept


def build_backends(
    config: Config, resources: Resources, kept: Mapping[str, Backend] | None = None
) -> dict[str, Backend]:
    """All upstreams, each after its parts, but for those that are `kept`. Nothing is started."""
    built: dict[str, Backend] = {}
    for name in config.build_order:
        if kept and name in kept:
            built[name] = kept[name]
            continue
        options = config.upstreams[name]
        kind = load(BACKENDS, options.kind, what="kind")
        lent = Resources(
            backends={part: built[part] for part in kind.parts(options)},
            transport=resources.transport,
            model_dir=resources.model_dir,
            threads=resources.threads,
            pool=resources.pool,
        )
        built[name] = kind(name, options, lent)
    return built


def detector(config: Config) -> Detector | None:
    """What looks into requests before they are routed, if anything shall."""
    privacy = config.privacy
    if not privacy.looks:
        return None
    hook: Hooked | None = None
    if privacy.hook is not None and privacy.hook.python is not None:
        hook = FunctionHook(privacy.hook.python)
    elif privacy.hook is not None and privacy.hook.url is not None:
        # Never a test's or an operator's own transport: what goes here has not been judged yet.
        hook = HttpHook(privacy.hook.url, default_transport(), privacy.timeout)
    return PatternDetector(
        patterns(privacy.detect, privacy.hosts),
        privacy.detect,
        opaque=privacy.opaque,
        hook=hook,
        timeout_s=privacy.timeout,
    )


def nobody_else(method: str, headers: Mapping[str, str]) -> None:
    """Where keys are needed, a web page has none to send: no further wall."""
