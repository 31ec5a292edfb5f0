"""Counting by label values: right sums, closed ends, bounded growth."""

from __future__ import annotations

from prometheus_client.core import Metric

from gateway.series import CounterSeries, HistogramSeries


def values(family: Metric) -> dict[tuple[str, str], float]:
    """(sample name, its labels joined) → value"""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value for sample in family.samples
    }


def test_a_counter_adds_by_label_values() -> None:
    """Each set of label values has its own sum."""
    counter = CounterSeries("x_total", "X.", ("a", "b"), limit=9)
    counter.inc("1", "2")
    counter.inc("1", "2", by=2.5)
    counter.inc("1", "3")
    assert values(counter.family()) == {("x_total", "1,2"): 3.5, ("x_total", "1,3"): 1.0}


def test_a_counter_only_grows() -> None:
    """Negative, NaN and infinite amounts are left out, and leave no series behind."""
    counter = CounterSeries("x_total", "X.", ("a",), limit=9)
    for amount in (-1.0, 0.0, float("nan"), float("inf")):
        counter.inc("1", by=amount)
    assert values(counter.family()) == {}


def test_past_the_limit_values_count_as_other() -> None:
    """The first label's new values become `other`; known ones go on, and nothing is lost."""
    counter = CounterSeries("x_total", "X.", ("a",), limit=2)
    for name in ("one", "two", "three", "four", "one"):
        counter.inc(name)
    assert values(counter.family()) == {
        ("x_total", "one"): 2.0,
        ("x_total", "two"): 1.0,
        ("x_total", "other"): 2.0,
    }


def test_buckets_are_cumulative_and_hold_their_edge() -> None:
    """An observation on an edge is within it; each bucket holds those below; +Inf holds all."""
    histogram = HistogramSeries("x_seconds", "X.", ("a",), (0.5, 1, 2.5), limit=9)
    for seconds in (0.1, 0.5, 0.6, 1.0, 99.0):
        histogram.see("v", seconds=seconds)
    assert values(histogram.family()) == {
        ("x_seconds_bucket", "v,0.5"): 2.0,
        ("x_seconds_bucket", "v,1.0"): 4.0,
        ("x_seconds_bucket", "v,2.5"): 4.0,
        ("x_seconds_bucket", "v,+Inf"): 5.0,
        ("x_seconds_count", "v"): 5.0,
        ("x_seconds_sum", "v"): 101.2,
    }


def test_what_is_no_duration_is_left_out() -> None:
    """None, negative, NaN and infinite seconds make no observation."""
    histogram = HistogramSeries("x_seconds", "X.", ("a",), (1,), limit=9)
    for seconds in (None, -0.1, float("nan"), float("inf")):
        histogram.see("v", seconds=seconds)
    assert values(histogram.family()) == {}


def test_a_histogram_is_bounded_too() -> None:
    """Past its limit a histogram observes into `other`."""
    histogram = HistogramSeries("x_seconds", "X.", ("a",), (1,), limit=1)
    for name in ("one", "two", "three"):
        histogram.see(name, seconds=0.5)
    found = values(histogram.family())
    assert (found["x_seconds_count", "one"], found["x_seconds_count", "other"]) == (1.0, 2.0)


def test_without_labels_there_is_a_zero_from_the_start() -> None:
    """A histogram without labels shows before its first observation, so that rates work."""
    histogram = HistogramSeries("x_seconds", "X.", (), (1,), limit=1)
    assert values(histogram.family())["x_seconds_count", ""] == 0.0


def test_a_family_is_a_snapshot() -> None:
    """What is counted later does not reach into a family that is being rendered."""
    histogram = HistogramSeries("x_seconds", "X.", ("a",), (1,), limit=1)
    histogram.see("v", seconds=0.5)
    family = histogram.family()
    histogram.see("v", seconds=0.5)
    assert values(family)["x_seconds_count", "v"] == 1.0
