"""What is learnt of an upstream's pace from its first contents."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pace import LEAST_PER_TOKEN_S, MOST_PER_TOKEN_S, Pace


@settings(derandomize=True, deadline=None)
@given(st.floats(0.05, 2.0), st.floats(0.0001, 0.01), st.integers(0, 2**32))
def test_the_wait_and_the_reading_are_told_apart(base: float, token: float, seed: int) -> None:
    """From prompts of many lengths, a token's time is found; long prompts do not make it slow."""
    pace, rng = Pace(), random.Random(seed)
    for at in range(200):
        cold = rng.randrange(4000)
        pace.see((base + token * cold) * rng.uniform(0.98, 1.02), cold, float(at))
    noise = 0.1 * (base / 1000 + token)
    assert pace.per_token_s == pytest.approx(token, abs=noise, rel=0.15)


def test_two_answers_are_no_law() -> None:
    """A slow answer to a long prompt and a quick one to a short hardly move a token's time."""
    pace = Pace()
    pace.see(0.1, 50, now=0.0)
    pace.see(1.5, 150, now=1.0)
    assert pace.per_token_s < 0.006
    assert pace.now((0.1, 0.0002), 1.0)[1] < 0.0015


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=40))
def test_nonsense_teaches_nothing_bad(seen: list[tuple[float, float]]) -> None:
    """Whatever an upstream reports, times stay finite and positive."""
    pace = Pace()
    for at, (ttft, cold) in enumerate(seen):
        pace.see(min(ttft, 1e6), min(cold, 1e9), float(at))
    assert LEAST_PER_TOKEN_S <= pace.per_token_s <= MOST_PER_TOKEN_S
    assert pace.base_s is None or (math.isfinite(pace.base_s) and pace.base_s > 0)


def test_a_bad_minute_fades() -> None:
    """One answer proves little, and one that is no longer asked is believed to be like the best."""
    pace = Pace()
    pace.see(10.0, 0, now=0.0)
    assert pace.now((1.0, 0.1), 0.0)[0] == pytest.approx(1.9)
    for _ in range(20):
        pace.see(10.0, 0, now=0.0)
    seen = [pace.now((1.0, 0.1), now) for now in (0.0, 10.0, 100.0)]
    assert [base for base, _ in seen] == [
        pytest.approx(10.0),
        pytest.approx(5.5),
        pytest.approx(1.0, abs=0.01),
    ]
    assert seen[0][1] < seen[1][1] < seen[2][1] == pytest.approx(0.1, abs=0.001)
    assert Pace().now((0.3, 0.1), 5.0) == (0.3, 0.1)


def test_what_a_cache_really_keeps() -> None:
    """Once an upstream reports cached tokens, its own word counts; one that never does is believed
    to keep all, and short beginnings prove nothing."""
    silent, half = Pace(), Pace()
    for _ in range(60):
        silent.see_cached(0, 1000)
        half.see_cached(500, 1000)
        half.see_cached(0, 10)
    assert silent.keeps == 1
    assert half.keeps == pytest.approx(0.5, abs=0.01)
