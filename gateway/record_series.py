"""What the one record that each request leaves counts, by label values from closed lists.

What is not on its list becomes `other`, so no client can make series: a scrape of 15,000 lines
would hold every live stream up for 125 ms (operations.md 0.6; our budget is 3,000). Drafting's are
in speculation.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.chat import Endpoint
from gateway.core.exchange import ExchangeRecord
from gateway.core.routing import Tier
from gateway.ledger import counterfactual
from gateway.series import OTHER, DeclaredSeries
from gateway.speculation import SpeculationSeries

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


class RecordSeries:
    """The counters and histograms of finished requests, by the `upstreams` and models known."""

    def __init__(self, series: DeclaredSeries) -> None:
        self.upstreams: set[str] = set()
        self._models: set[str] = set()
        self._declare(series)

    def know(self, models: Iterable[str], upstreams: Iterable[str]) -> None:
        """Further names: aliases and upstreams. A client's other words for a model are `other`."""
        self.upstreams.update(upstreams)
        self._models.update(models, self.upstreams)

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

    def _upstream(self, name: str) -> str:
        return name if name in self.upstreams else OTHER

    def _declare(self, series: DeclaredSeries) -> None:
        counter, histogram = series.counter, series.histogram
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
        self._speculation = SpeculationSeries(series)
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


def _known(value: str, closed: frozenset[str]) -> str:
    return str(value) if value in closed else OTHER


def _count(value: object) -> float:
    return value if isinstance(value, int | float) else 0
