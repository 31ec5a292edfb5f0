"""What drafting did for an answer, as its record has it, and as the header and the metrics read it.

A record's `speculation` is one flat JSON object with bounded keys; whoever reads it takes nothing
for granted, for a backend may leave out what it has not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from gateway.core.events import SpeculationReport
from gateway.series import OTHER, DeclaredSeries, Labels

Fields: TypeAlias = Mapping[str, Any]

STRATEGIES = frozenset("companion one_shot prefix_fanout review stream".split())
ENDS = frozenset(("", "off", "draft-lost"))
"""Of a strategy, behind its semicolon; what else stands there is why it fell back to streaming."""
SOURCES = frozenset("model ngram prediction".split())
CAUSES = frozenset(
    "no_websocket unreachable connect_timeout open_timeout upstream_timeout closed broken "
    "status_401 status_403 status_404 status_429 status_503 fingerprint_mismatch version_mismatch "
    "engine_failed overloaded context_length_exceeded unsupported_parameter draft-lost".split()
)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_RATIOS = (0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
_WIDTHS = (1, 2, 4, 8)
_POSITIONS = 8
"""Of a draft, that have a series of their own; those behind share one."""


def fields(report: SpeculationReport) -> dict[str, Any]:
    """For the record. `verified` is there if verifying was billed beyond the answer."""
    verified = report.verified
    extra = {}
    if verified is not None:
        extra["verified"] = {
            "prompt_tokens": verified.prompt_tokens,
            "completion_tokens": verified.completion_tokens,
        }
    return {
        "strategy": report.strategy,
        "drafted": report.drafted,
        "accepted": report.accepted,
        "rounds": report.rounds,
        "gain": report.gain,
        "alpha": report.alpha,
        "tokens": report.tokens,
        "proposed": report.proposed,
        "stale": report.stale,
        "predicted": report.predicted,
        "usd_delta": report.usd_delta,
        "rtt_ms": _ms(report.rtt_s),
        "draft_ms": _ms(report.draft_s),
        "verify_ms": {str(width): _ms(s) for width, s in sorted(report.verify_s.items())},
        "held_at": list(report.held_at),
        "ties": report.ties,
        "sources": {name: list(counts) for name, counts in report.sources.items()},
        **extra,
    }


def header(speculation: Fields) -> str:
    """`strategy;alpha=…;tpp=…;speedup=…;usd_delta=…`; `-` for what nobody knows.

    tpp are tokens per pass of the target.
    """
    rounds, tokens = _number(speculation.get("rounds")), _number(speculation.get("tokens"))
    parts = {
        "alpha": _said(_number(speculation.get("alpha")), ".2f"),
        "tpp": _said(tokens / rounds if tokens and rounds else None, ".2f"),
        "speedup": _said(_number(speculation.get("gain")), ".2f"),
        "usd_delta": _said(_number(speculation.get("usd_delta")), "+.6f"),
    }
    return ";".join((str(speculation["strategy"]), *(f"{k}={v}" for k, v in parts.items())))


class SpeculationSeries:
    """The metrics of drafting, by pair. Names follow vLLM's and llama.cpp's `spec_decode_*`."""

    def __init__(self, series: DeclaredSeries) -> None:
        counter, histogram = series.counter, series.histogram
        pair: Labels = ("pair",)
        self._answers = counter(
            "tandem_spec_answers_total",
            "Answers of a pair, by strategy and how it ended.",
            ("pair", "strategy", "end"),
            64,
        )
        self._fallbacks = counter(
            "tandem_spec_fallbacks_total",
            "Answers that were not drafted, by cause.",
            ("pair", "cause"),
            64,
        )
        self._drafts = counter(
            "tandem_spec_drafts_total", "Target passes of speculation.", pair, 16
        )
        self._drafted = counter(
            "tandem_spec_draft_tokens_total", "Draft tokens verified.", pair, 16
        )
        self._accepted = counter(
            "tandem_spec_accepted_tokens_total", "Draft tokens that held.", pair, 16
        )
        self._held_at = counter(
            "tandem_spec_accepted_position_total",
            "Draft tokens that held, by their place in the draft.",
            ("pair", "position"),
            128,
        )
        self._ties = counter(
            "tandem_spec_ties_total",
            "Passes in which another batch width might have said another token.",
            pair,
            16,
        )
        self._proposed = counter(
            "tandem_spec_proposed_tokens_total",
            "Draft tokens sent, by source.",
            ("pair", "source"),
            48,
        )
        self._held = counter(
            "tandem_spec_held_tokens_total",
            "Of them those that the target said, by source.",
            ("pair", "source"),
            48,
        )
        self._stale = counter(
            "tandem_spec_stale_drafts_total", "Drafts that came too late.", pair, 16
        )
        self._self = counter(
            "tandem_spec_self_tokens_total", "Tokens that the target said undrafted.", pair, 16
        )
        self._cost = counter("tandem_spec_cost_usd_total", "Dollars that drafting cost.", pair, 16)
        self._saved = counter(
            "tandem_spec_saved_usd_total", "Dollars that drafting saved.", pair, 16
        )
        self._alpha = histogram(
            "tandem_spec_acceptance_ratio",
            "Share of tried drafts that held, an answer.",
            pair,
            _SHARES,
            16,
        )
        self._gain = histogram(
            "tandem_spec_speedup_ratio", "Plain time over an answer's time.", pair, _RATIOS, 16
        )
        self._error = histogram(
            "tandem_spec_prediction_ratio",
            "Realised speed-up over the predicted one.",
            pair,
            _RATIOS,
            16,
        )
        self._rtt = histogram(
            "tandem_spec_rtt_seconds", "Round trip to the companion.", pair, _SECONDS, 16
        )
        self._pass = histogram(
            "tandem_spec_verify_seconds",
            "A pass of the target, by its width.",
            ("pair", "width"),
            _SECONDS,
            64,
        )

    def observe(self, pair: str, said: Fields) -> None:
        strategy, _, end = str(said.get("strategy", "")).partition(";")
        known = strategy if strategy in STRATEGIES else OTHER
        self._answers.inc(pair, known, end if end in ENDS else OTHER)
        if strategy == "stream" or end == "draft-lost":
            self._fallbacks.inc(pair, end if end in CAUSES else OTHER)
        drafted, accepted = _count(said.get("drafted")), _count(said.get("accepted"))
        self._drafts.inc(pair, by=_count(said.get("rounds")))
        self._drafted.inc(pair, by=drafted)
        self._accepted.inc(pair, by=accepted)
        self._stale.inc(pair, by=_count(said.get("stale")))
        self._ties.inc(pair, by=_count(said.get("ties")))
        for at, held in enumerate(said.get("held_at") or ()):
            place = str(at + 1) if at < _POSITIONS else f"{_POSITIONS}+"
            self._held_at.inc(pair, place, by=_count(held))
        self._self.inc(pair, by=_count(said.get("tokens")) - accepted)
        for source, counts in (said.get("sources") or {}).items():
            if source in SOURCES:
                self._proposed.inc(pair, source, by=counts[0])
                self._held.inc(pair, source, by=counts[1])
        usd = _number(said.get("usd_delta")) or 0.0
        self._cost.inc(pair, by=usd)
        self._saved.inc(pair, by=-usd)
        gain, predicted = _number(said.get("gain")), _number(said.get("predicted"))
        self._alpha.see(pair, seconds=_number(said.get("alpha")))
        if drafted:
            self._gain.see(pair, seconds=gain)
            self._error.see(pair, seconds=gain / predicted if gain and predicted else None)
        self._rtt.see(pair, seconds=_seconds(said.get("rtt_ms")))
        for width, ms in (said.get("verify_ms") or {}).items():
            self._pass.see(pair, _width(width), seconds=_seconds(ms))


def _width(width: str) -> str:
    edge = next((edge for edge in _WIDTHS if int(width) <= edge), None)
    return f"{_WIDTHS[-1]}+" if edge is None else str(edge)


def _count(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _seconds(ms: object) -> float | None:
    return ms / 1e3 if isinstance(ms, int | float) else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


def _said(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
