"""Prometheus metrics: the scrape, and what is counted beside records.

Everything comes from records and vitals. Counters and histograms read the one record that each
request leaves (record_series.py); gauges (gauges.py) are asked of the parts at scrape time.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Callable, Iterable
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from gateway import __version__
from gateway.core.exchange import ExchangeRecord
from gateway.gauges import VitalsCollector
from gateway.record_series import RecordSeries
from gateway.series import DeclaredSeries
from gateway.vitals import Vitals

logger = logging.getLogger("tandem.metrics")

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
        series = DeclaredSeries()
        self._records = RecordSeries(series)
        self._records.know(models, upstreams)
        self._reloads = series.counter(
            "tandem_config_reloads_total", "Configurations read again.", ("result",), limit=2
        )
        self._lag = series.histogram(
            "tandem_event_loop_lag_seconds",
            "How late the event loop wakes, sampled each 100 ms.",
            (),
            _LAG,
            limit=1,
        )
        self.registry.register(series)
        self.registry.register(VitalsCollector(vitals, self._records.upstreams, wall))
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "tandem_build_info", "Always 1.", ("version", "python"), registry=self.registry
        )
        build.labels(__version__, platform.python_version()).set(1)

    def know(self, models: Iterable[str], upstreams: Iterable[str]) -> None:
        """Further names: those of a configuration that has come since."""
        self._records.know(models, upstreams)

    def reloaded(self, result: str) -> None:
        """A configuration was read again: `ok`, or `error` and the old one stays."""
        self._reloads.inc(result)

    def observe(self, record: ExchangeRecord) -> None:
        """Count one finished request. Called exactly once for each, also for failed ones."""
        self._records.observe(record)

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
