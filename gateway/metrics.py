"""Prometheus metrics: what records count, and the scrape. Drafting's are in speculation.py.

Everything comes from records and vitals. Counters and histograms read the one record that each
request leaves; gauges (gauges.py) are asked of the parts at scrape time. Every label value comes
from a closed list and what is not on it becomes `other`, so no client can make series: a scrape of
15,000 lines would hold every live stream up for 125 ms (operations.md 0.6; our budget is 3,000).
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.chat import Endpoint
from gateway.core.exchange import ExchangeRecord
from gateway.core.routing import Tier
from gateway.gauges import VitalsCollector
from gateway.ledger import counterfactual
from gateway.series import OTHER, CounterSeries, HistogramSeries, Labels
from gateway.speculation import SpeculationSeries
from gateway.vitals import Vitals

logger = logging.getLogger("tandem.metrics")

ENDPOINTS = frozenset(Endpoint)
TIERS = frozenset(Tier)
OUTCOMES = frozenset(
    "ok client_error upstream_error timeout shed cancelled truncated policy_blocked "
    "internal".split()
)
CLASSES = frozenset(
    "2xx 4xx 429 5xx connect tls reset timeout protocol refused cancelled cut".split()
)
CASCADE_ENDS = frozenset("sure unsure loop refusal empty form failed".split())
REASONS = frozenset(
    "none pin rule static learned sticky fallback budget capacity locality cache".split()
)
FINDINGS = frozenset("keys cards iban email phone hosts opaque hook failed".split())
BALANCES = frozenset({"warm", "load", "only"})
LOOKUPS = frozenset("hit miss stale bypass error".split())

# Every promise about latency has its number on an edge (operations.md 1.2).
_TTFT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_DURATION = tuple(0.01 * 2**i for i in range(15))
_PER_TOKEN = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5,
)  # fmt: skip
_OVERHEAD = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25,
)  # fmt: skip
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

LAG_EVERY_S = 0.1
WARN_LAG_S = 0.25
WARN_EVERY_S = 10.0
RENDER_EVERY_S = 1.0


class Metrics:
    """All of a gateway's metrics, in a registry of their own.

    `models` are the aliases and upstream names of the configuration; a client's other words for a
    model count as `other`. `vitals` is called from the thread that renders: it may read, not
    change.
    """

    def __init__(
        self,
        *,
        models: Iterable[str],
        upstreams: Iterable[str],
        vitals: Callable[[], Vitals] = Vitals,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._lock = Lock()
        self._rendered: dict[str, tuple[float, bytes]] = {}
        self._upstreams = set(upstreams)
        self._models = {*models, *self._upstreams}
        self._series: list[CounterSeries | HistogramSeries] = []
        self._declare()
        self.registry.register(_SeriesCollector(self._series))
        self.registry.register(VitalsCollector(vitals, self._upstreams, wall))
        ProcessCollector(registry=self.registry)

    def know(self, models: Iterable[str], upstreams: Iterable[str]) -> None:
        """Further names: those of a configuration that has come since."""
        self._upstreams.update(upstreams)
        self._models.update(models, self._upstreams)

    def reloaded(self, result: str) -> None:
        """A configuration was read again: `ok`, or `error` and the old one stays."""
        self._reloads.inc(result)

    def observe(self, record: ExchangeRecord) -> None:
        """Count one finished request. Called exactly once for each, also for failed ones."""
        model = record.model if record.model in self._models else OTHER
        tier = _known(record.tier, TIERS)
        self._requests.inc(
            model,
            _known(record.endpoint, ENDPOINTS),
            tier,
            _known(record.outcome, OUTCOMES),
            "true" if record.stream else "false",
        )
        self._duration.see(model, tier, seconds=record.duration_s)
        if record.stream:
            self._ttft.see(model, tier, seconds=record.ttft_s)
        self._per_token.see(model, tier, seconds=record.inter_token_s)
        self._observe_route(record, tier)
        self._observe_spending(record, model, tier)

    def _observe_route(self, record: ExchangeRecord, tier: str) -> None:
        last = len(record.attempts) - 1
        for at, attempt in enumerate(record.attempts):
            upstream = self._upstream(attempt.upstream)
            kind = _known("2xx" if attempt.result == "ok" else attempt.result, CLASSES)
            self._attempts.inc(upstream, kind)
            self._attempt_seconds.see(upstream, seconds=attempt.seconds)
            if at < last:
                self._fallbacks.inc(upstream, kind)
        if record.decide_s is not None:
            self._decisions.inc(_known(record.reason, REASONS), tier)
            self._balance.inc(_known(record.balance, BALANCES))
            self._overhead.see("pre", seconds=record.decide_s)
            self._lookups.inc("exact", _known(record.cache, LOOKUPS))
        for rule in record.observed:
            self._observed.inc(rule)
        for kind in record.found:
            self._findings.inc(_known(kind, FINDINGS))

    def _observe_spending(self, record: ExchangeRecord, model: str, tier: str) -> None:
        usage = record.usage
        self._tokens.inc(model, tier, "input", by=usage.prompt_tokens)
        self._tokens.inc(model, tier, "output", by=usage.completion_tokens)
        self._tokens.inc(model, tier, "cached_input", by=usage.cached_tokens)
        self._tokens.inc(model, tier, "reasoning", by=usage.reasoning_tokens)
        if record.cost_known:
            self._cost.inc(model, tier, by=record.cost_usd or 0)
        elif record.upstream and record.tier != Tier.CACHE:
            self._cost_unknown.inc(self._upstream(record.upstream))
        self._avoided.inc(model, by=record.avoided_usd or 0)
        if record.others:
            self._observe_choice(record, model)
        if record.energy_j is not None:
            source = "estimated" if record.energy_estimated else "rapl"
            self._energy.inc(source, by=record.energy_j)
        if record.cascade is not None:
            self._cascades.inc(
                self._upstream(record.upstream), _known(record.cascade["why"], CASCADE_ENDS)
            )
        if record.speculation is not None:
            pair = self._upstream(record.upstream)
            drafted = _count(record.speculation.get("drafted"))
            self._tokens.inc(model, tier, "draft", by=drafted)
            self._speculation.observe(pair, record.speculation)
        if record.approximate:
            self._approximate.inc(self._upstream(record.upstream))

    def _observe_choice(self, record: ExchangeRecord, model: str) -> None:
        """What the answer would have cost elsewhere, where a choice was made."""
        elsewhere = counterfactual(record)
        if elsewhere is None:
            return
        for side, usd in (("cloud", elsewhere.all_cloud), ("local", elsewhere.all_local)):
            if usd is None:
                self._elsewhere_unknown.inc(side)
            else:
                self._elsewhere.inc(side, by=usd)
        if elsewhere.saved is not None:
            self._saved.inc(model, by=elsewhere.saved)
            self._overpaid.inc(model, by=-elsewhere.saved)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The scrape and its content type. Run it in a thread; at most a second old."""
        write: Callable[[CollectorRegistry], bytes] = generate_latest
        kind = CONTENT_TYPE_PLAIN_0_0_4
        if "application/openmetrics-text" in accept:
            write, kind = openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        with self._lock:
            rendered_at, body = self._rendered.get(kind, (float("-inf"), b""))
            if self._clock() - rendered_at >= RENDER_EVERY_S:
                body = write(self.registry)
                self._rendered[kind] = self._clock(), body
        return body, kind

    async def watch_lag(self) -> None:
        """Sample how late the event loop runs its timers, until cancelled; say so when it is long,
        at most every `WARN_EVERY_S`: somebody's code blocks every stream here.
        """
        loop = asyncio.get_running_loop()
        warned = float("-inf")
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            lag = max(0.0, loop.time() - due)
            self._lag.see(seconds=lag)
            if lag >= WARN_LAG_S and due >= warned + WARN_EVERY_S:
                warned = due
                logger.warning("the event loop stood still for %.0f ms", lag * 1e3)

    def _upstream(self, name: str) -> str:
        return name if name in self._upstreams else OTHER

    def _declare(self) -> None:
        counter, histogram = self._counter, self._histogram
        lane = ("model", "tier")
        self._requests = counter(
            "tandem_requests_total",
            "Client requests, each once, however they ended.",
            ("model", "endpoint", "tier", "outcome", "stream"),
            limit=300,
        )
        self._duration = histogram(
            "tandem_request_duration_seconds", "Arrival to the end.", lane, _DURATION, limit=16
        )
        self._ttft = histogram(
            "tandem_time_to_first_token_seconds",
            "Arrival to the first content, of streams.",
            lane,
            _TTFT,
            limit=16,
        )
        self._per_token = histogram(
            "tandem_time_per_output_token_seconds",
            "First to last content over the tokens between.",
            lane,
            _PER_TOKEN,
            limit=16,
        )
        self._reloads = counter(
            "tandem_config_reloads_total", "Configurations read again.", ("result",), limit=2
        )
        self._attempts = counter(
            "tandem_upstream_requests_total",
            "Attempts at upstreams, by how they ended.",
            ("upstream", "class"),
            limit=120,
        )
        self._attempt_seconds = histogram(
            "tandem_upstream_duration_seconds",
            "An attempt's whole time.",
            ("upstream",),
            _DURATION,
            limit=16,
        )
        self._fallbacks = counter(
            "tandem_fallbacks_total",
            "Attempts that were given up for the next candidate.",
            ("upstream", "class"),
            limit=60,
        )
        self._decisions = counter(
            "tandem_route_decisions_total", "Routes chosen.", ("reason", "tier"), limit=60
        )
        self._observed = counter(
            "tandem_rules_observed_total",
            "Requests that a rule in the mode observe would have matched.",
            ("rule",),
            limit=32,
        )
        self._findings = counter(
            "tandem_privacy_findings_total",
            "Requests in which the privacy detector saw this kind.",
            ("kind",),
            limit=16,
        )
        self._balance = counter(
            "tandem_balance_choices_total",
            "How the first upstream was picked among its equals: warm, load, or the only one.",
            ("choice",),
            limit=3,
        )
        self._lookups = counter(
            "tandem_cache_lookups_total", "Response cache lookups.", ("kind", "result"), limit=12
        )
        self._tokens = counter(
            "tandem_tokens_total",
            "Tokens by what they were; cached_input and reasoning lie within input and output.",
            ("model", "tier", "type"),
            limit=100,
        )
        self._cost = counter(
            "tandem_cost_usd_total", "Spent, where the cost is known.", lane, limit=40
        )
        self._cost_unknown = counter(
            "tandem_cost_unknown_total",
            "Answers whose cost nobody knows: no price, or none for so long a prompt.",
            ("upstream",),
            limit=24,
        )
        self._avoided = counter(
            "tandem_cost_avoided_usd_total", "What cache hits saved.", ("model",), limit=24
        )
        self._cascades = counter(
            "tandem_cascade_drafts_total",
            "Drafts of a cascade, by why they were kept (sure) or another answered.",
            ("upstream", "why"),
            limit=32,
        )
        self._speculation = SpeculationSeries(self._counter, self._histogram)
        self._elsewhere = counter(
            "tandem_counterfactual_cost_usd_total",
            "What answers would have cost with the same tokens, all in the cloud or all here.",
            ("all",),
            limit=2,
        )
        self._elsewhere_unknown = counter(
            "tandem_counterfactual_unknown_total",
            "Answers of which that is not known: no price, or nobody there who could have served.",
            ("all",),
            limit=2,
        )
        self._saved = counter(
            "tandem_savings_usd_total",
            "What the cloud would have cost beyond what was paid, where both are known.",
            ("model",),
            limit=24,
        )
        self._overpaid = counter(
            "tandem_overspending_usd_total",
            "What was paid beyond what the cloud would have cost, where both are known.",
            ("model",),
            limit=24,
        )
        self._approximate = counter(
            "tandem_approximate_answers_total",
            "Answers of an approximate mode.",
            ("upstream",),
            limit=16,
        )
        self._energy = counter(
            "tandem_energy_joules_total", "Energy of answers, by source.", ("source",), limit=2
        )
        self._overhead = histogram(
            "tandem_overhead_seconds",
            "Time we add: pre is arrival to the route (count, classify, filter, choose).",
            ("phase",),
            _OVERHEAD,
            limit=2,
        )
        self._lag = histogram(
            "tandem_event_loop_lag_seconds",
            "How late the event loop wakes, sampled each 100 ms.",
            (),
            _LAG,
            limit=1,
        )
        build = Gauge(
            "tandem_build_info", "Always 1.", ("version", "python"), registry=self.registry
        )
        build.labels(__version__, platform.python_version()).set(1)

    def _counter(self, name: str, text: str, labels: Labels, limit: int) -> CounterSeries:
        series = CounterSeries(name, text, labels, limit=limit)
        self._series.append(series)
        return series

    def _histogram(
        self, name: str, text: str, labels: Labels, edges: Sequence[float], limit: int
    ) -> HistogramSeries:
        series = HistogramSeries(name, text, labels, edges, limit=limit)
        self._series.append(series)
        return series


class _SeriesCollector(Collector):
    """What the records have counted."""

    def __init__(self, series: Iterable[CounterSeries | HistogramSeries]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        return (each.family() for each in self._series)


def _known(value: str, closed: frozenset[str]) -> str:
    return str(value) if value in closed else OTHER


def _count(value: object) -> float:
    return value if isinstance(value, int | float) else 0
