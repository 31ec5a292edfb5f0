"""Rows of the fault table that many requests make: storms, flapping, slowness. Time by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from gateway.core.errors import (
    TandemError,
    Unavailable,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamUnreachable,
)
from tests.fakes.harness import Harness, run
from tests.fakes.scripted import ScriptedBackend, Step, saying, upstream


async def storm(harness: Harness, requests: int, *, step_s: float, at_once: int = 8) -> int:
    """Ask so often; how many were answered."""
    answered = 0

    async def one() -> None:
        nonlocal answered
        try:
            await harness.answer()
            answered += 1
        except TandemError as error:
            assert error.status in (429, 502, 503)

    for _ in range(requests // at_once):
        await asyncio.gather(*(one() for _ in range(at_once)))
        harness.now += step_s
    return answered


def test_row_01_refused_connections_all_fall_back() -> None:
    """However many come at once, each request that one upstream refused is answered by the next."""
    dead = ScriptedBackend(upstream("a"), [UpstreamUnreachable("refused")])
    good = ScriptedBackend(upstream("b"), saying("here"))
    harness = Harness([dead, good], limit=500)
    assert run(storm(harness, 200, step_s=0.1, at_once=100)) == 200


def test_row_20_a_429_storm_is_no_retry_storm() -> None:
    """When all upstreams throttle, there are at most 1.2 attempts a request, and each request that
    is refused says when to come back."""
    throttled = [
        ScriptedBackend(upstream(name), [UpstreamOverloaded("429", retry_after=20)])
        for name in "abc"
    ]
    harness = Harness(throttled, limit=500)
    assert run(storm(harness, 1000, step_s=0.1)) == 0
    attempts = sum(len(backend.calls) for backend in throttled)
    assert attempts <= 1.2 * 1000
    refused = [record for record in harness.records if record.attempts == ()]
    assert len(refused) > 900

    async def ask() -> None:
        try:
            await harness.answer()
        except Unavailable as error:
            assert error.retry_after is not None and 1 <= error.retry_after <= 20
        else:
            raise AssertionError("it cools")

    run(ask())


def test_row_21_one_probe_closes_a_breaker() -> None:
    """A burst of 5xx opens the breaker; after it a single request tries, and then all may."""
    flaky = ScriptedBackend(upstream("a"), [UpstreamFailed("503")])
    good = ScriptedBackend(upstream("b"), saying("b"))
    harness = Harness([flaky, good], limit=500)
    assert run(storm(harness, 80, step_s=0.1)) == 80
    assert len(flaky.calls) <= 5 + 8
    flaky.script, flaky.calls = saying("a"), []
    harness.now += 7
    assert run(storm(harness, 80, step_s=0.1)) == 80
    assert len(flaky.calls) >= 70


def test_row_22_a_refused_credential_is_left_alone() -> None:
    """After a 401 of the upstream's nobody asks it for a minute; the others serve."""
    locked = ScriptedBackend(upstream("a"), [UpstreamError("401", code="upstream_auth")])
    good = ScriptedBackend(upstream("b"), saying("b"))
    harness = Harness([locked, good], limit=500)
    answered = run(storm(harness, 80, step_s=0.5))
    assert len(locked.calls) <= 8
    assert answered == 80


def test_row_25_half_of_the_answers_fail() -> None:
    """With one upstream that fails every other time and a healthy one, 95% are answered, and the
    flapping one is asked ever less."""
    turns = itertools.cycle([[UpstreamFailed("500")], saying("a")])

    def flapping() -> Sequence[Step]:
        return next(turns)

    flaky = ScriptedBackend(upstream("a"), flapping)
    good = ScriptedBackend(upstream("b"), saying("b"))
    harness = Harness([flaky, good], limit=500)
    answered = run(storm(harness, 800, step_s=0.2))
    assert answered >= 0.95 * 800
    assert len(flaky.calls) < 400


def test_airplane_mode() -> None:
    """Every cloud upstream gone: the local one serves at once, and the cloud is back after one
    probe."""
    clouds = [ScriptedBackend(upstream(name), [UpstreamUnreachable("x")]) for name in "ab"]
    local = ScriptedBackend(upstream("here"), saying("local"))
    harness = Harness([*clouds, local], limit=500)
    assert run(storm(harness, 80, step_s=0.1)) == 80
    assert all(len(cloud.calls) <= 13 for cloud in clouds)
    for cloud in clouds:
        cloud.script, cloud.calls = saying("cloud"), []
    harness.now += 7
    assert run(harness.answer()) == "cloud"


def test_panic_asks_one() -> None:
    """With everything open one request a second is let through, and the first that succeeds opens
    the way for all."""
    dead = [ScriptedBackend(upstream(name), [UpstreamFailed("500")]) for name in "ab"]
    harness = Harness(dead, limit=500)
    run(storm(harness, 40, step_s=0.1))
    for backend in dead:
        backend.calls.clear()
    run(storm(harness, 80, step_s=0.1))
    assert 1 <= sum(len(backend.calls) for backend in dead) <= 4
    for backend in dead:
        backend.script = saying("back")
    harness.now += 1.5
    assert run(harness.answer()) == "back"
    assert run(storm(harness, 16, step_s=0.1)) == 16
