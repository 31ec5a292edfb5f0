"""Metrics of local engines, from their workers' own counters, and of the memory they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.vitals import EngineVitals, ResidentVitals

_ENGINE_COUNTS = (
    ("steps", "steps", "Batches of work computed."),
    ("preemptions", "preemptions", "Sequences parked because the KV cells were full."),
    ("prefix_hits", "prefix_hits", "Prompts that began like a resident sequence."),
    ("prefix_tokens", "prefix_tokens", "Prompt tokens that were not computed again."),
    ("evictions", "evictions", "Ended sequences whose cells were taken."),
    ("snapshots_saved", "snapshots_saved", "Evicted sequences kept in RAM."),
    ("snapshots_restored", "snapshots_restored", "Sequences brought back from RAM."),
    ("snapshot_tokens", "snapshot_tokens", "Prompt tokens that came back from RAM."),
    ("cancels", "cancelled", "Sequences dropped because nobody wanted them any more."),
    ("superseded", "superseded", "Completions ended by a newer one of the same session."),
    ("expired", "expired", "Jobs whose deadline passed in the queue."),
    ("embedded_texts", "embedded_texts", "Texts that were made vectors."),
    ("embedded_tokens", "embedded_tokens", "Their tokens, computed."),
)
_ENGINE_ROWS = ("prompt", "decode", "draft")
_ENGINE_DRAFTS = (
    ("drafts", "Drafts verified that the worker made itself."),
    ("draft_tokens", "Their tokens."),
    ("accepted_tokens", "Those of them that held."),
)
_DRAFT_SOURCES = ("ngram", "prediction", "model")
_DRAFT_OFF = ("cost", "busy", "acceptance", "no_match")
_AUDITS = ("same", "tie", "mismatch")
_EXACTNESS = ("bitwise", "tie-tolerant")
_ENGINE_CELLS = ("used", "reserved", "cached")


def engine_counts(engines: Mapping[str, EngineVitals]) -> Iterator[Metric]:
    known = {name: engine.stats for name, engine in engines.items() if engine.stats}
    for name, key, text in _ENGINE_COUNTS:
        counts = CounterMetricFamily(f"tandem_engine_{name}", text, labels=("upstream",))
        for upstream, stats in known.items():
            counts.add_metric((upstream,), stats[key])
        yield counts
    rows = CounterMetricFamily(
        "tandem_engine_rows", "Rows decoded, by what they were.", labels=("upstream", "kind")
    )
    cells = GaugeMetricFamily(
        "tandem_engine_kv_cells",
        "KV cells by state; cached ones are free for who needs them.",
        labels=("upstream", "state"),
    )
    for upstream, stats in known.items():
        for kind in _ENGINE_ROWS:
            rows.add_metric((upstream, kind), stats[f"{kind}_rows"])
        for state in _ENGINE_CELLS:
            cells.add_metric((upstream, state), stats[state])
    yield rows
    yield cells
    yield from _engine_drafts(known)
    yield from _exactness(engines)
    yield gauge(
        "tandem_engine_kv_usage_ratio",
        "KV cells that hold tokens, over all.",
        "upstream",
        {name: stats["used"] / max(1, stats["cells"]) for name, stats in known.items()},
    )
    yield gauge(
        "tandem_engine_slots_busy",
        "Sequences that generate.",
        "upstream",
        {name: stats["running"] for name, stats in known.items()},
    )
    yield gauge(
        "tandem_engine_queue_depth",
        "Jobs that wait for cells or a slot.",
        "upstream",
        {name: stats["waiting"] for name, stats in known.items()},
    )


def _engine_drafts(known: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """A worker's own drafts; those of a pair's edge are in its records (tandem_spec_*)."""
    for what, text in _ENGINE_DRAFTS:
        counts = CounterMetricFamily(
            f"tandem_engine_spec_{what}", text, labels=("upstream", "source")
        )
        for upstream, stats in known.items():
            for source in _DRAFT_SOURCES:
                counts.add_metric((upstream, source), stats.get(f"spec_{what}_{source}", 0))
        yield counts
    off = CounterMetricFamily(
        "tandem_engine_spec_off",
        "Steps of a sequence without a draft, by why; for cost, whole requests.",
        labels=("upstream", "reason"),
    )
    for upstream, stats in known.items():
        for why in _DRAFT_OFF:
            off.add_metric((upstream, why), stats.get(f"spec_off_{why}", 0))
    yield off
    audits = CounterMetricFamily(
        "tandem_spec_audits",
        "Verified positions that were evaluated once more, by what came out.",
        labels=("upstream", "result"),
    )
    for upstream, stats in known.items():
        for result in _AUDITS:
            audits.add_metric((upstream, result), stats.get(f"audits_{result}", 0))
    yield audits


def _exactness(engines: Mapping[str, EngineVitals]) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "tandem_spec_exactness",
        "Which promise a target's sessions have: 1 for the one that holds.",
        labels=("upstream", "exactness"),
    )
    for upstream, engine in engines.items():
        for promise in _EXACTNESS:
            if engine.exactness:
                held.add_metric((upstream, promise), float(engine.exactness == promise))
    yield held


def memory(residents: Mapping[str, ResidentVitals], budget: int | None) -> Iterator[Metric]:
    loads = CounterMetricFamily(
        "tandem_model_loads", "Local models loaded into memory.", labels=("upstream",)
    )
    seconds = CounterMetricFamily(
        "tandem_model_load_seconds", "What those loads took together.", labels=("upstream",)
    )
    unloads = CounterMetricFamily(
        "tandem_model_unloads",
        "Local models that left memory, by why: idle, or memory for another.",
        labels=("upstream", "reason"),
    )
    for name, model in residents.items():
        loads.add_metric((name,), model.loads)
        seconds.add_metric((name,), model.load_s)
        for reason, count in model.unloads.items():
            unloads.add_metric((name, reason), count)
    yield from (loads, seconds, unloads)
    yield gauge(
        "tandem_model_resident_bytes",
        "What a local model takes of the budget now.",
        "upstream",
        {name: model.size if model.in_memory else 0 for name, model in residents.items()},
    )
    if budget is not None:
        yield GaugeMetricFamily("tandem_memory_budget_bytes", "memory.budget.", budget)


def gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), float(number))
    return family
