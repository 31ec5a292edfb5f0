"""The composition root: the one place that picks concrete parts, opens and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from backends import BACKENDS
from backends.base import Backend, Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.footprint import resident
from backends.engine.pool import ModelPool
from backends.rate_limits import Limited
from backends.speculative.seams import Ended
from gateway.admin import AdminParts, admin_app
from gateway.admission import Admission
from gateway.cache import CACHES
from gateway.cache.base import Cache
from gateway.companion import CompanionEndpoint, resolver, session_record
from gateway.config import Config
from gateway.core.errors import EngineFailed
from gateway.core.exchange import ExchangeRecord
from gateway.core.registry import load
from gateway.core.routing import Facts, Zone
from gateway.cors import AllowedOrigins
from gateway.dialects import DIALECTS
from gateway.energy import EnergyMeter
from gateway.fleet import Fleet
from gateway.limits.keys import Keys, is_loopback
from gateway.limits.local_origin import LocalOrigin
from gateway.metrics import (
    DependencyVitals,
    EngineVitals,
    Metrics,
    ResidentVitals,
    Vitals,
)
from gateway.pipeline import Pipeline
from gateway.plan import Alias, Planner, Rulebook
from gateway.record import JsonLog, RecordStore
from gateway.server import App, ProxyServer, Receive, Scope, Send
from router_policies.chain import build as build_policy
from router_policies.pin import PinPolicy
from router_policies.rules import locality, min_bits

if TYPE_CHECKING:
    from gateway.cache.memory import MemoryCache
    from gateway.cache.redis import RedisCache

MAX_INSIDE = 1024
"""Requests inside at once; the local engine and each upstream have tighter bounds of their own."""
ENGINE_STATS_S = 1.0


class Gateway:
    """Everything that runs behind one configuration, from `start` to `aclose`."""

    def __init__(
        self,
        config: Config,
        *,
        model_dir: Path = Path("models"),
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
        companion: bool = False,
        log: JsonLog | None = None,
    ) -> None:
        self.config = config
        self.pool = ModelPool(budget=config.memory.budget, min_stay=config.memory.min_stay)
        resources = Resources(transport=transport, model_dir=model_dir, pool=self.pool)
        self.backends = build_backends(config, resources)
        self.fleet = Fleet(self.backends, time.monotonic)
        self.admission = Admission(MAX_INSIDE)
        self.records = RecordStore()
        self.memory, self.redis, cache = _caches(config)
        self.metrics = Metrics(
            models=config.aliases, upstreams=config.upstreams, vitals=self._vitals
        )
        self._energy = EnergyMeter(sharing=self._local_in_flight)
        self._watches: list[asyncio.Task[None]] = []
        self._engine_stats: dict[str, Mapping[str, float]] = {}
        self._log = log
        self._cache = cache
        self.keys = Keys(config.callers)
        self.pipeline = Pipeline(
            fleet=self.fleet,
            planner=Planner(self.fleet, rulebook(config)),
            admission=self.admission,
            cache=cache,
            record=self._record,
            energy=self._energy.joules,
            clock=time.monotonic,
            wall=time.time,
        )
        guard = LocalOrigin(
            allowed_hosts=config.server.allowed_hosts,
            allowed_origins=config.server.allowed_origins,
        )
        self._guard = nobody_else if config.callers else guard.check
        self.app = self._app(companion)

    async def start(self) -> None:
        await self.fleet.start()
        self._watches = [
            asyncio.create_task(self.metrics.watch_lag(), name="loop-lag"),
            asyncio.create_task(self._energy.watch(), name="energy"),
            asyncio.create_task(self._watch_engines(), name="engine-stats"),
        ]

    async def aclose(self) -> None:
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self.fleet.aclose()
        if self._cache is not None:
            await self._cache.aclose()
        if self._log is not None:
            self._log.close()

    def drain(self) -> None:
        """Refuse new requests and say so on /readyz; those inside go on."""
        self.admission.draining = True

    def admin(self) -> App:
        """The application of the admin port: the same paths, and always /metrics."""
        return self._admin_app(metrics_here=True)

    def _admin_app(self, *, metrics_here: bool) -> App:
        return admin_app(
            AdminParts(
                fleet=self.fleet,
                aliases=self.pipeline.planner.rulebook.aliases,
                admission=self.admission,
                records=self.records,
                guard=self._guard,
                authenticate=self.keys.authenticate,
                local_models=self._local_models,
                render_metrics=self.metrics.render,
                metrics_here=metrics_here,
            )
        )

    def _app(self, companion: bool) -> App:
        admin = self._admin_app(metrics_here=is_loopback(self.config.server.host))
        targets = {
            name: backend
            for name, backend in self.backends.items()
            if isinstance(backend, LlamaCppBackend)
        }
        sessions = CompanionEndpoint(
            guard=self._guard,
            authenticate=self.keys.authenticate,
            resolve=resolver(targets),
            ended=self._session_ended,
        )
        dialects = {path: load(DIALECTS, path, what="path")() for path in DIALECTS}
        dialects |= {path.removeprefix("/v1"): each for path, each in dialects.items()}
        proxy = ProxyServer(
            pipeline=self.pipeline,
            dialects=dialects,
            guard=self._guard,
            authenticate=self.keys.authenticate,
            rest=_Rest(admin, sessions if companion else None),
            max_body=self.config.server.max_body,
            clock=time.monotonic,
        )
        origins = self.config.server.allowed_origins
        return AllowedOrigins(proxy, origins) if origins else proxy

    def _record(self, record: ExchangeRecord) -> None:
        self.metrics.observe(record)
        self.records.add(record)
        if self._log is not None:
            self._log.write(record)

    def _session_ended(self, ended: Ended) -> None:
        """A companion's session leaves a record as a request does (DESIGN 2.8)."""
        backend = self.backends.get(ended.model)
        if backend is not None:
            self._record(session_record(ended, backend.upstream, self._energy.joules, time.time()))

    def _local_in_flight(self) -> int:
        """Answers that this machine's processor is working on now."""
        in_flight = self.fleet.in_flight()
        local = (u.name for u in self.fleet.upstreams() if u.kind == "llama_cpp")
        return sum(in_flight[name] for name in local)

    def _local_models(self) -> dict[str, Mapping[str, Any]]:
        """What each local model is doing in memory: cold, queued, loading, loaded, unloading."""
        return {name: self.pool.progress(name) for name in self.pool.models}

    async def _watch_engines(self) -> None:
        """Ask each worker for its counters, until cancelled; a scrape only reads them."""
        while True:
            for name, backend in self.backends.items():
                if isinstance(backend, LlamaCppBackend):
                    with contextlib.suppress(EngineFailed, TimeoutError):
                        async with asyncio.timeout(ENGINE_STATS_S):
                            self._engine_stats[name] = await backend.engine.stats()
            await asyncio.sleep(ENGINE_STATS_S)

    def _vitals(self) -> Vitals:
        engines = {
            name: EngineVitals(
                up=backend.engine.ready is not None,
                restarts=backend.engine.ends,
                quarantined=backend.engine.state in ("quarantined", "held"),
                load_s=backend.engine.ready.load_s if backend.engine.ready else None,
                rss_bytes=resident(backend.engine.pid),
                stats=self._engine_stats.get(name, {}),
            )
            for name, backend in self.backends.items()
            if isinstance(backend, LlamaCppBackend)
        }
        dependencies = {}
        if self.redis is not None:
            dependencies["redis"] = DependencyVitals(up=self.redis.up, errors=self.redis.errors)
        return Vitals(
            in_flight=self.fleet.in_flight(),
            upstream_up={name: health.ok for name, health in self.fleet.health().items()},
            upstreams=self.fleet.vitals(),
            rate_limits={
                name: backend.rate_limits
                for name, backend in self.backends.items()
                if isinstance(backend, Limited)
            },
            engines=engines,
            residents={
                name: ResidentVitals(
                    size=model.size,
                    in_memory=model.state != "cold",
                    loads=model.loads,
                    load_s=model.load_s,
                    unloads={**model.unloads},
                )
                for name, model in tuple(self.pool.models.items())
            },
            memory_budget=self.pool.budget,
            dependencies=dependencies,
            cache_entries=len(self.memory) if self.memory is not None else 0,
            cache_bytes=self.memory.bytes if self.memory is not None else 0,
            log_dropped=self._log.dropped if self._log is not None else 0,
        )


class _Rest:
    """What is not a proxy path: WebSocket sessions, and FastAPI for plain HTTP."""

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
            await self._admin(scope, receive, send)


def build_backends(config: Config, resources: Resources) -> dict[str, Backend]:
    """All upstreams, each after its parts. Nothing is started."""
    built: dict[str, Backend] = {}
    for name in config.build_order:
        options = config.upstreams[name]
        kind = load(BACKENDS, options.kind, what="kind")
        parts = {part: built[part] for part in kind.parts(options)}
        lent = Resources(
            backends=parts,
            transport=resources.transport,
            model_dir=resources.model_dir,
            threads=resources.threads,
            pool=resources.pool,
        )
        built[name] = kind(name, options, lent)
    return {name: built[name] for name in config.build_order}


def rulebook(config: Config) -> Rulebook:
    """The configuration's say on routing, compiled once."""
    settings = config.policy_settings
    aliases = {
        name: Alias(
            candidates=alias.candidates,
            policy=build_policy(alias.policy, settings),
            deadline_s=alias.deadline,
            min_bits=alias.min_bits,
        )
        for name, alias in config.aliases.items()
    }

    def by_rule(facts: Facts) -> Zone | None:
        return locality(config.rules, facts)

    def bits(facts: Facts) -> float | None:
        return min_bits(config.rules, facts)

    return Rulebook(
        aliases=aliases,
        pin=PinPolicy(),
        locality=by_rule,
        min_bits=bits,
        reach=config.reach,
        headers=config.rule_headers,
        default_zone=config.privacy.default,
        epoch=hashlib.sha256(repr((config.aliases, config.rules)).encode()).hexdigest()[:16],
        deadline_s=config.server.deadline,
        strict_parameters=config.server.strict_parameters,
    )


def _caches(config: Config) -> tuple[MemoryCache | None, RedisCache | None, Cache | None]:
    """(memory, redis, the cache to use). redis-py is imported only by those who configure it."""
    exact = config.cache.exact
    memory: MemoryCache | None = None
    redis: RedisCache | None = None
    if exact.memory:
        memory = _cache("memory")(max_bytes=exact.memory, ttl_s=exact.ttl)
    if exact.redis:
        redis = _cache("redis")(exact.redis, secret=exact.secret or None, ttl_s=exact.ttl)
    if memory is not None and redis is not None:
        return memory, redis, _cache("tiered")(memory, redis)
    return memory, redis, memory or redis


def _cache(name: str) -> Any:
    return load(CACHES, name, what="cache")


def nobody_else(method: str, headers: Mapping[str, str]) -> None:
    """Where keys are needed, a web page has none to send: no further wall."""
