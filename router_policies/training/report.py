"""One page about a router on labelled prompts: quality, calibration, share, fields, latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from router_policies.learned.model import Router
from router_policies.training.data import Floats, Labelled
from router_policies.training.evaluate import by_field, cells, compare, replay, sets
from router_policies.training.metrics import Quality, calibration_error, curve
from router_policies.training.plots import lines, table

TARGETS = (0.1, 0.2, 0.3, 0.5, 0.7)
BINS = 10
DRAWN = 200
"""Points of a curve: more would not be seen."""
OURS, LENGTH, RANDOM, ORACLE = "this router", "prompt length", "random", "oracle"

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1d2129}table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;"
    "text-align:right;border-bottom:1px solid #dde1e6}td:first-child,th:first-child"
    "{text-align:left}svg text{font:11px system-ui,sans-serif}.grid{stroke:#e6e9ed}"
    "p{max-width:46rem}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What a report is made of. `held_out` says whether the router saw none of these prompts."""

    labelled: Labelled
    scores: Floats
    fails: Floats
    title: str
    held_out: str
    left_out: Floats | None = None
    """Scores of routers that never saw a prompt's field; None where none was trained."""
    latency_us: Sequence[float] = ()


def latencies(router: Router, prompts: Sequence[str]) -> list[float]:
    """Microseconds of one assessment, prompt by prompt."""
    for prompt in prompts[:100]:
        router.assess(prompt)
    taken = []
    for prompt in prompts:
        start = time.perf_counter()
        router.assess(prompt)
        taken.append((time.perf_counter() - start) * 1e6)
    return taken


def summary(found: Evaluated) -> dict[str, dict[str, Quality]]:
    """Figures of this router and what it must be shown beside, for each set."""
    labelled = found.labelled
    lengths = np.array([len(row.prompt) for row in labelled.rows], float)
    chance = np.random.default_rng(0).random(len(lengths))
    routers = {RANDOM: chance, LENGTH: lengths, OURS: found.scores}
    return {name: compare(labelled, routers, at, 200) for name, at in sets(labelled).items()}


def page(found: Evaluated) -> str:
    """The report as HTML: one file, no script, nothing fetched."""
    parts = [
        f"<h1>{escape(found.title)}</h1>",
        f"<p>{len(found.labelled.rows)} prompts. {escape(found.held_out)} APGR is the area under "
        "the share of the quality gap that is closed, against the share of calls that go to the "
        "strong model: 0.5 is chance. Intervals are 95 % bootstrap intervals.</p>",
        "<h2>Quality</h2>",
        _quality_table(summary(found)),
        *_quality_plots(found),
        "<h2>Calibration</h2>",
        _calibration(found),
        "<h2>Share held</h2>",
        _shares(found),
        "<h2>By field</h2>",
        _fields(found),
    ]
    if found.latency_us:
        p50, p99 = np.percentile(found.latency_us, [50, 99])
        parts.append(
            f"<h2>Latency</h2><p>p50 {p50:.0f} µs, p99 {p99:.0f} µs here, single shot.</p>"
        )
    head = f'<meta charset="utf-8"><title>{escape(found.title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _quality_table(found: Mapping[str, Mapping[str, Quality]]) -> str:
    rows = [
        [
            name if router == RANDOM else "",
            router,
            f"{q.apgr:.3f}",
            f"{q.low:.3f} to {q.high:.3f}",
            f"{100 * q.cpt50:.1f} %",
            f"{100 * q.cpt80:.1f} %",
            str(q.rows),
        ]
        for name, each in found.items()
        for router, q in each.items()
    ]
    return table(["set", "router", "APGR", "95 %", "CPT50", "CPT80", "prompts"], rows)


def _quality_plots(found: Evaluated) -> list[str]:
    labelled, drawn = found.labelled, []
    lengths = np.array([len(row.prompt) for row in labelled.rows], float)
    for name, at in sets(labelled).items():
        gain, weak = labelled.gain[at], labelled.weak[at].mean()
        total = gain.mean()
        series = {
            router: [(x, weak + total * y) for x, y in _thinned(curve(scores[at], gain))]
            for router, scores in ((OURS, found.scores), (LENGTH, lengths))
        }
        series[RANDOM] = [(0.0, weak), (1.0, weak + total)]
        series[ORACLE] = [(x, weak + total * y) for x, y in _thinned(curve(gain, gain))]
        top = max(y for points in series.values() for _, y in points)
        drawn.append(f"<h3>{escape(name)}</h3>")
        drawn.append(
            lines(series, across="share to the strong model", up="quality",
                  least=(0, round(weak - 0.02, 2)), most=(1, round(top + 0.02, 2)))
        )  # fmt: skip
    return drawn


def _thinned(line: Floats) -> list[tuple[float, float]]:
    at = np.unique(np.linspace(0, len(line) - 1, DRAWN).astype(int))
    return [(float(i / (len(line) - 1)), float(line[i])) for i in at]


def _calibration(found: Evaluated) -> str:
    said = np.clip(1 - found.fails, 0, 1)
    happened = found.labelled.weak
    groups = np.array_split(np.argsort(said, kind="stable"), BINS)
    points = [(float(said[g].mean()), float(happened[g].mean())) for g in groups if len(g)]
    error = calibration_error(said, happened, BINS)
    chart = lines(
        {"local model right": points, "perfect": [(0, 0), (1, 1)]},
        across="predicted", up="happened", most=(1, 1),
    )  # fmt: skip
    return f"<p>Expected calibration error {error:.3f}.</p>{chart}"


def _shares(found: Evaluated) -> str:
    start = np.quantile(found.scores, np.linspace(0, 1, 501)).tolist()
    rows = []
    everything = np.ones(len(found.scores), bool)
    for target in TARGETS:
        for drifted in (False, True):
            each = replay(
                found.labelled, found.scores, everything,
                name="all", target=target, start=start, drifted=drifted,
            )  # fmt: skip
            windows = f"{each.low:.3f} to {each.high:.3f}"
            rows.append([f"{target:.0%}", each.order, f"{each.share:.1%}", windows])
    return table(["target", "order", "after request 500", "windows of 500"], rows)


def _fields(found: Evaluated) -> str:
    inside = by_field(cells(found.labelled, found.scores))
    alone = {} if found.left_out is None else by_field(cells(found.labelled, found.left_out))
    rows = [
        [field, f"{value:.3f}", f"{alone[field]:.3f}" if field in alone else "not trained"]
        for field, value in sorted(inside.items())
    ]
    if not rows:
        return "<p>No field has enough prompts.</p>"
    return table(["field", "APGR", "APGR, field left out of training"], rows)
