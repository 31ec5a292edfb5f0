"""Row 47: somebody blocks the event loop. It is seen and said, and nobody else is blamed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from backends.engine.heartbeat import BEAT_S, Heartbeat
from gateway.metrics import WARN_EVERY_S, Metrics
from gateway.vitals import Vitals
from tests.fakes.virtual_time import VirtualLoop, run


def samples(metrics: Metrics, name: str) -> dict[str, float]:
    lines = metrics.render()[0].decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(name))
    return {key: float(value) for key, _, value in found}


def test_row_47_a_blocked_loop_is_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """Half a second without a turn is in the lag metric, in its place, and in one warning."""

    async def story() -> Metrics:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        metrics = Metrics(models=(), upstreams=(), vitals=Vitals)
        watch = asyncio.create_task(metrics.watch_lag())
        await asyncio.sleep(1)
        assert "stood still" not in caplog.text
        for _ in range(3):
            loop.block(0.55)
            await asyncio.sleep(0.35)
        assert caplog.text.count("stood still") == 1
        await asyncio.sleep(WARN_EVERY_S)
        loop.block(0.55)
        await asyncio.sleep(0.35)
        assert caplog.text.count("stood still") == 2
        watch.cancel()
        return metrics

    with caplog.at_level(logging.WARNING):
        metrics = run(story())
    buckets = samples(metrics, "tandem_event_loop_lag_seconds_bucket")
    total = samples(metrics, "tandem_event_loop_lag_seconds_count").popitem()[1]
    short = buckets['tandem_event_loop_lag_seconds_bucket{le="0.25"}']
    assert total - short == 4
    assert buckets['tandem_event_loop_lag_seconds_bucket{le="1.0"}'] == total


def test_row_47_nobody_is_killed_for_our_own_lateness() -> None:
    """A worker whose answers lay in the socket while we stood still is not taken for hung: ticks
    are counted, not seconds, and what has come is read in between."""

    async def story() -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        heartbeat = Heartbeat(0)  # a process without a /proc entry stands still, as far as we see

        async def watch() -> bool:
            while not heartbeat.tick():
                loop.call_soon(heartbeat.answered)  # it answers at once; we read it later
                await asyncio.sleep(BEAT_S)
            return True

        watching = asyncio.create_task(watch())
        for _ in range(100):
            loop.block(10 * BEAT_S)
            await asyncio.sleep(0.01)
        killed = watching.done()
        watching.cancel()
        return killed

    assert run(story()) is False
