"""The composition root: what lives as long as the process, and the configuration that is in force.

What one configuration makes is generation.py's; a reload makes the next one beside it, puts it in
its place at once, and takes the old one down when the last request that began under it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from backends.base import Backend, Resources
from backends.engine.footprint import resident
from backends.engine.pool import ModelPool
from backends.rate_limits import Limited
from backends.speculative.rung import Laddered
from backends.speculative.seams import Ended
from gateway.admission import Admission
from gateway.asgi import App
from gateway.cache import CACHES
from gateway.cache.base import Cache
from gateway.companion_record import session_record
from gateway.config import Config, ConfigError, Problem
from gateway.conversations import Conversations
from gateway.core.errors import EngineFailed
from gateway.core.exchange import ExchangeRecord
from gateway.core.registry import load
from gateway.decisions import Decisions
from gateway.energy import EnergyMeter
from gateway.epoch import Entrance
from gateway.fleet import Fleet
from gateway.generation import Generation, Shared
from gateway.labels import LabelLog
from gateway.limits.keys import Keys
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.record import JsonLog, RecordStore
from gateway.tightened import Tightened
from gateway.token_pace import TokenPaces
from gateway.vitals import DependencyVitals, EngineVitals, ResidentVitals, Vitals

if TYPE_CHECKING:
    from gateway.cache.memory import MemoryCache
    from gateway.cache.redis import RedisCache

logger = logging.getLogger("tandem.app")

MAX_INSIDE = 1024
"""Requests inside at once; the local engine and each upstream have tighter bounds of their own."""
ENGINE_STATS_S = 1.0


class Gateway:
    """Everything that runs in one process, from `start` to `aclose`.

    Raises ConfigError for a label log that cannot be opened.
    """

    def __init__(
        self,
        config: Config,
        *,
        model_dir: Path = Path("models"),
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
        companion: bool = False,
        log: JsonLog | None = None,
    ) -> None:
        self.pool = ModelPool(budget=config.memory.budget, min_stay=config.memory.min_stay)
        self.admission = Admission(MAX_INSIDE)
        self.records = RecordStore()
        self.decisions = Decisions()
        self.paces = TokenPaces()
        self.memory, self.redis, self._cache = _caches(config)
        self.metrics = Metrics(
            models=config.aliases, upstreams=config.upstreams, vitals=self._vitals
        )
        self._energy = EnergyMeter(sharing=self._local_in_flight)
        self._watches: list[asyncio.Task[None]] = []
        self._engine_stats: dict[str, Mapping[str, float]] = {}
        self._log = log
        self._labels = _label_log(config)
        self._shared = Shared(
            resources=Resources(transport=transport, model_dir=model_dir, pool=self.pool),
            admission=self.admission,
            records=self.records,
            cache=self._cache,
            energy=self._energy.joules,
            record=self._record,
            decisions=self.decisions,
            labels=self._labels,
            paces=self.paces,
            conversations=Conversations(time.monotonic),
            tightened=Tightened(time.monotonic),
            session_ended=self._session_ended,
            render_metrics=self.metrics.render,
            companion=companion,
        )
        self._now = Generation(config, self._shared)
        self._leaving: dict[Generation, asyncio.Task[None]] = {}
        self._reloading = asyncio.Lock()
        self.app: App = Entrance(lambda: self._now.epoch)

    @property
    def config(self) -> Config:
        return self._now.config

    @property
    def backends(self) -> Mapping[str, Backend]:
        return self._now.backends

    @property
    def fleet(self) -> Fleet:
        return self._now.fleet

    @property
    def keys(self) -> Keys:
        return self._now.keys

    @property
    def pipeline(self) -> Pipeline:
        return self._now.pipeline

    async def start(self) -> None:
        await self.fleet.start()
        self._watches = [
            asyncio.create_task(self.metrics.watch_lag(), name="loop-lag"),
            asyncio.create_task(self._energy.watch(), name="energy"),
            asyncio.create_task(self._watch_engines(), name="engine-stats"),
        ]

    async def aclose(self) -> None:
        tasks = [*self._watches, *self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What a generation has to itself: later ones go on with the rest, and close it.
        generations = [*self._leaving, self._now]
        for one, after in zip(generations, [*generations[1:], None], strict=True):
            await one.aclose(after)
        if self._cache is not None:
            await self._cache.aclose()
        if self._log is not None:
            self._log.close()
        if self._labels is not None:
            self._labels.close()

    async def reload(self, config: Config) -> None:
        """Put another configuration in force, all of it at once; requests inside keep theirs.

        Raises if it cannot be built; then nothing has changed. `server.host` and `port`,
        `memory`, `cache` and `router.labels` are as they were at the start.
        """
        async with self._reloading:
            before = self._now
            after = Generation(config, self._shared, before)
            try:
                await after.fleet.start()
            except BaseException:
                await after.aclose(before)
                raise
            self.metrics.know(config.aliases, config.upstreams)
            waited_for = list(self._leaving.values())
            self._now = after
            before.retire()
            self._leaving[before] = asyncio.create_task(
                self._take_down(before, after, waited_for), name="last requests of a configuration"
            )

    async def _take_down(
        self, one: Generation, after: Generation, earlier: list[asyncio.Task[None]]
    ) -> None:
        """Close what only an ended generation used. Earlier ones may still be using it, too."""
        await asyncio.gather(*earlier, return_exceptions=True)
        await one.epoch.left()
        await one.aclose(after)
        del self._leaving[one]

    def drain(self) -> None:
        """Refuse new requests and say so on /readyz; those inside go on."""
        self.admission.draining = True
        for generation in self._generations():
            generation.retire()

    def cut(self) -> None:
        """End those that are still inside, each with an error that says why."""
        self.admission.over = True
        for generation in self._generations():
            generation.cut()

    @property
    def inside(self) -> int:
        """Requests and sessions, under whatever configuration they began."""
        return sum(generation.epoch.inside for generation in self._generations())

    @property
    def leaving(self) -> int:
        """Configurations that are no longer in force, and still have requests inside."""
        return len(self._leaving)

    async def left(self) -> None:
        """Until nobody is inside."""
        while self.inside:
            for generation in self._generations():
                await generation.epoch.left()

    def admin(self) -> App:
        """The application of the admin port: the same paths, and always /metrics."""
        return Entrance(lambda: self._now.epoch, private=True)

    def _generations(self) -> list[Generation]:
        return [*self._leaving, self._now]

    def _record(self, record: ExchangeRecord) -> None:
        self.metrics.observe(record)
        self.records.add(record)
        self.paces.see(record)
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

    async def _watch_engines(self) -> None:
        """Ask each worker for its counters, until cancelled; a scrape only reads them."""
        while True:
            for name, backend in self._now.local.items():
                with contextlib.suppress(EngineFailed, TimeoutError):
                    async with asyncio.timeout(ENGINE_STATS_S):
                        self._engine_stats[name] = await backend.engine.stats()
            await asyncio.sleep(ENGINE_STATS_S)

    def _vitals(self) -> Vitals:
        now = self._now
        engines = {
            name: EngineVitals(
                up=backend.engine.ready is not None,
                restarts=backend.engine.ends,
                quarantined=backend.engine.state in ("quarantined", "held"),
                load_s=backend.engine.ready.load_s if backend.engine.ready else None,
                rss_bytes=resident(backend.engine.pid),
                stats=self._engine_stats.get(name, {}),
                exactness=backend.engine.ready.promised if backend.engine.ready else "",
            )
            for name, backend in now.local.items()
        }
        dependencies = {}
        if self.redis is not None:
            dependencies["redis"] = DependencyVitals(up=self.redis.up, errors=self.redis.errors)
        return Vitals(
            in_flight=now.fleet.in_flight(),
            upstream_up={name: health.ok for name, health in now.fleet.health().items()},
            upstreams=now.fleet.vitals(),
            rate_limits={
                name: backend.rate_limits
                for name, backend in now.backends.items()
                if isinstance(backend, Limited)
            },
            rungs={
                name: backend.rung
                for name, backend in now.backends.items()
                if isinstance(backend, Laddered) and backend.rung is not None
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
                for name, backend in now.local.items()
                if (model := self.pool.models.get(backend.resident)) is not None
            },
            memory_budget=self.pool.budget,
            dependencies=dependencies,
            cache_entries=len(self.memory) if self.memory is not None else 0,
            cache_bytes=self.memory.bytes if self.memory is not None else 0,
            log_dropped=self._log.dropped if self._log is not None else 0,
        )


def _label_log(config: Config) -> LabelLog | None:
    kept = config.router.labels
    if kept is None:
        return None
    try:
        return LabelLog(kept.path, kept.max_bytes, content=kept.content)
    except OSError as error:
        message = f"cannot write {str(kept.path)!r}: {error.strerror}"
        raise ConfigError((Problem(0, 0, "router.labels.path", message),)) from None


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
