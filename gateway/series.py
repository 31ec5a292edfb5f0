"""Counters and histograms by label values, as cheap as a dict: what records are counted with.

prometheus_client's own take a lock for each increment, which over a request's eighteen facts is
24 us; these take 5. They are written by the event loop alone and read by the thread that renders,
which copies before it looks. Exposition stays prometheus_client's: each is a source of families.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"
INFINITY = float("inf")

Labels: TypeAlias = tuple[str, ...]


class CounterSeries:
    """A counter. Past `limit` sets of label values, a new first value counts as `other`.

    The lists of values are closed, but their product need not be small.
    """

    def __init__(self, name: str, text: str, labels: Labels, *, limit: int) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._limit = limit
        self._values: dict[Labels, float] = {}

    def inc(self, *values: str, by: float = 1) -> None:
        """Add. A hostile upstream may report anything: what is not above 0 and finite is left out,
        since a counter only grows and NaN would stay for ever.
        """
        if 0 < by < INFINITY:
            old = self._values.get(values)
            if old is None:
                values = _bounded(values, len(self._values), self._limit)
                old = self._values.get(values, 0.0)
            self._values[values] = old + by

    def family(self) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._values.copy().items():
            family.add_metric(values, number)
        return family


class HistogramSeries:
    """A histogram with classic buckets; `limit` as for a counter."""

    def __init__(
        self, name: str, text: str, labels: Labels, edges: Sequence[float], *, limit: int
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._edges = tuple(edges)
        # "1.0", not "1": Prometheus compares this label as text, and rules use one form.
        self._les = [*(repr(float(edge)) for edge in edges), "+Inf"]
        self._limit = limit
        self._cells: dict[Labels, list[float]] = {}
        """The sum, then the count of each bucket by itself."""
        if not labels:
            self._cells[()] = self._empty()

    def see(self, *values: str, seconds: float | None) -> None:
        """Count one observation; None, negative and not finite ones are left out."""
        if seconds is None or not 0 <= seconds < INFINITY:
            return
        cell = self._cells.get(values)
        if cell is None:
            values = _bounded(values, len(self._cells), self._limit)
            cell = self._cells.setdefault(values, self._empty())
        cell[0] += seconds
        cell[1 + bisect_left(self._edges, seconds)] += 1

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, cell in self._cells.copy().items():
            total, *counts = cell.copy()
            buckets = list(zip(self._les, accumulate(counts), strict=True))
            family.add_metric(values, buckets, total)
        return family

    def _empty(self) -> list[float]:
        return [0.0] * (1 + len(self._les))


class DeclaredSeries(Collector):
    """All series of a registry, as they are declared; a scrape collects them."""

    def __init__(self) -> None:
        self._series: list[CounterSeries | HistogramSeries] = []

    def counter(self, name: str, text: str, labels: Labels, limit: int) -> CounterSeries:
        series = CounterSeries(name, text, labels, limit=limit)
        self._series.append(series)
        return series

    def histogram(
        self, name: str, text: str, labels: Labels, edges: Sequence[float], limit: int
    ) -> HistogramSeries:
        series = HistogramSeries(name, text, labels, edges, limit=limit)
        self._series.append(series)
        return series

    def collect(self) -> Iterator[Metric]:
        return (each.family() for each in self._series)


def _bounded(values: Labels, held: int, limit: int) -> Labels:
    return values if held < limit else (OTHER, *values[1:])
