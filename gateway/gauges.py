"""Gauges, and counters that somebody else keeps, read from the parts when a scrape asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.rate_limits import Kind, RateLimits
from backends.speculative.rung import STATES, Rung
from gateway.engine_gauges import engine_counts, gauge, memory
from gateway.resilience.vitals import UpstreamVitals
from gateway.vitals import Vitals

T = TypeVar("T")

_RESILIENCE = (
    ("tandem_breaker_state", "breaker", "0 closed, 1 open, 2 half-open."),
    ("tandem_retry_budget_remaining", "retry_budget", "Of an upstream's budget, from 1 to 0."),
    ("tandem_concurrency_limit", "concurrency_limit", "Requests that may wait for a first token."),
    ("tandem_waiting", "waiting", "Requests that wait for a first token."),
)


def _resilience(upstreams: Mapping[str, UpstreamVitals]) -> Iterator[Metric]:
    for name, key, text in _RESILIENCE:
        values = {upstream: getattr(vitals, key) for upstream, vitals in upstreams.items()}
        yield gauge(name, text, "upstream", values)
    opened = CounterMetricFamily(
        "tandem_breaker_opened", "Times a breaker opened.", labels=("upstream",)
    )
    for upstream, vitals in upstreams.items():
        opened.add_metric((upstream,), vitals.opened)
    yield opened


class VitalsCollector(Collector):
    """Gauges, and counters that somebody else keeps, read at scrape time."""

    def __init__(
        self,
        vitals: Callable[[], Vitals],
        upstreams: Collection[str],
        wall: Callable[[], float],
    ) -> None:
        self._vitals = vitals
        self._upstreams = upstreams
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        now = self._vitals()
        engines = self._ours(now.engines)
        yield gauge(
            "tandem_inflight", "Attempts running now.", "upstream", self._ours(now.in_flight)
        )
        yield gauge(
            "tandem_upstream_up",
            "1 if the last health check passed.",
            "upstream",
            self._ours(now.upstream_up),
        )
        yield from _resilience(self._ours(now.upstreams))
        yield _limits_left(self._ours(now.rate_limits), self._wall())
        yield from _rungs(self._ours(now.rungs))
        yield gauge(
            "tandem_engine_up",
            "1 if the engine's worker serves.",
            "upstream",
            {name: engine.up for name, engine in engines.items()},
        )
        yield gauge(
            "tandem_engine_quarantined",
            "1 while the engine's worker is not started again because it failed too often.",
            "upstream",
            {name: engine.quarantined for name, engine in engines.items()},
        )
        yield gauge(
            "tandem_engine_load_seconds",
            "What it took to load the model that is up now.",
            "upstream",
            {n: e.load_s for n, e in engines.items() if e.load_s is not None},
        )
        yield gauge(
            "tandem_engine_rss_bytes",
            "Resident memory of the engine's worker.",
            "upstream",
            {n: e.rss_bytes for n, e in engines.items() if e.rss_bytes is not None},
        )
        restarts = CounterMetricFamily(
            "tandem_engine_restarts",
            "Times a worker ended unasked, by why.",
            labels=("upstream", "cause"),
        )
        for name, engine in engines.items():
            for cause, count in engine.restarts.items():
                restarts.add_metric((name, cause), count)
        yield restarts
        yield from engine_counts(engines)
        yield from memory(self._ours(now.residents), now.memory_budget)
        yield gauge(
            "tandem_dependency_up",
            "1 if the dependency answers.",
            "dep",
            {name: dependency.up for name, dependency in now.dependencies.items()},
        )
        errors = CounterMetricFamily(
            "tandem_dependency_errors", "Failed calls to a dependency.", labels=("dep",)
        )
        for name, dependency in now.dependencies.items():
            errors.add_metric((name,), dependency.errors)
        yield errors
        yield GaugeMetricFamily(
            "tandem_cache_entries", "Answers kept in memory.", now.cache_entries
        )
        yield GaugeMetricFamily("tandem_cache_bytes", "Memory they take.", now.cache_bytes)
        yield CounterMetricFamily(
            "tandem_log_dropped", "Log lines dropped because the log was stuck.", now.log_dropped
        )

    def _ours(self, by_name: Mapping[str, T]) -> dict[str, T]:
        return {name: value for name, value in by_name.items() if name in self._upstreams}


def _limits_left(limits: Mapping[str, RateLimits], now: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "tandem_upstream_ratelimit_remaining_ratio",
        "What is left of a provider's scarcest limit, by its own headers.",
        labels=("upstream", "kind"),
    )
    kinds: tuple[Kind, ...] = ("requests", "tokens")
    for name, said in limits.items():
        for kind in kinds:
            ratio = said.remaining_ratio(kind, now)
            if ratio is not None:
                family.add_metric((name, kind), ratio)
    return family


def _rungs(rungs: Mapping[str, Rung]) -> Iterator[Metric]:
    """Pairs whose strategy has to be proved: how far it is, and what finding out has cost."""
    states = GaugeMetricFamily(
        "tandem_spec_strategy_state",
        "1 for the state that a pair's strategy is in.",
        labels=("pair", "strategy", "state"),
    )
    probes = CounterMetricFamily(
        "tandem_spec_probes", "Probes of an upstream's surface.", labels=("pair",)
    )
    tokens = CounterMetricFamily(
        "tandem_spec_probe_tokens", "Tokens that they were billed for.", labels=("pair",)
    )
    for pair, rung in rungs.items():
        for state in STATES:
            states.add_metric((pair, rung.strategy, state), float(rung.state == state))
        probes.add_metric((pair,), rung.probes)
        tokens.add_metric((pair,), rung.probe_tokens)
    yield from (states, probes, tokens)
