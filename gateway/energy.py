"""What an answer cost in joules: measured by the processor's own counters, or estimated.

Linux shows the energy counters of Intel and AMD processors (RAPL) under /sys/class/powercap; since
2020 usually to root only. Where they cannot be read, the estimate is configured watts times busy
seconds, and is marked as one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gateway.core.routing import Upstream, Zone

POWERCAP = Path("/sys/class/powercap")
WINDOW_S = 600.0
"""Longer answers than this are estimated."""

EVERY_S = 1.0
_SLACK_S = 2 * EVERY_S


def estimate(watts: float, busy_s: float) -> float:
    """Joules of something that draws `watts` while busy; never negative."""
    return max(0.0, watts) * max(0.0, busy_s)


class Rapl:
    """The energy of all processor packages since this object was made.

    `intel-rapl:0` is a package (AMD's have the same name); its children `intel-rapl:0:0` lie
    within it, and `psys` covers the packages once more, so neither is added.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._total_uj = 0
        self._packages: dict[Path, tuple[int, int]] = {}
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                if zone.name.count(":") == 1 and _text(zone / "name").startswith("package"):
                    span = int(_text(zone / "max_energy_range_uj"))
                    self._packages[zone / "energy_uj"] = int(_text(zone / "energy_uj")), span
            except (OSError, ValueError):
                continue  # not for us to read

    @property
    def readable(self) -> bool:
        return bool(self._packages)

    def joules(self) -> float | None:
        """Energy so far, or None once a counter can no longer be read.

        A counter wraps within minutes to hours; one wrap between two calls is accounted for. The
        files are answered by the kernel in microseconds, without a disk behind them.
        """
        if not self._packages:
            return None
        try:
            for path, (last, span) in self._packages.items():
                now = int(_text(path))
                self._total_uj += now - last if now >= last else now - last + span
                self._packages[path] = now, span
        except (OSError, ValueError):
            self._packages.clear()
            return None
        return self._total_uj / 1e6


class EnergyMeter:
    """Joules of one answer.

    With RAPL: the mean power of the packages around the answer's time, shared equally among the
    answers that `sharing` counts at its end. It holds everything the machine did meanwhile, which
    is what the socket pays for; the share is a convention. `watch` must run for it: an answer
    without a reading from just before its start is estimated.
    """

    def __init__(
        self,
        rapl: Rapl | None = None,
        *,
        sharing: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rapl = Rapl() if rapl is None else rapl
        self._sharing = sharing
        self._clock = clock
        self._readings: deque[tuple[float, float]] = deque()

    async def watch(self) -> None:
        """Read the counters each second, until cancelled; ends at once where there are none."""
        while True:
            if not self.sample():
                return
            await asyncio.sleep(EVERY_S)

    def sample(self) -> bool:
        """Take one reading; False if there is nothing to read."""
        joules = self._rapl.joules()
        if joules is None:
            return False
        now = self._clock()
        self._readings.append((now, joules))
        while now - self._readings[0][0] > WINDOW_S:
            self._readings.popleft()
        return True

    def joules(self, upstream: Upstream, busy_s: float) -> tuple[float | None, bool]:
        """(joules, whether they are estimated); (None, True) where nothing is known.

        RAPL speaks for this machine only; other upstreams are estimated from their own watts.
        """
        if upstream.zone == Zone.MACHINE:
            watts = self._measured_watts(busy_s)
            if watts is not None:
                return estimate(watts, busy_s) / max(1, self._sharing()), False
        if upstream.watts is None:
            return None, True
        return estimate(upstream.watts, busy_s), True

    def _measured_watts(self, busy_s: float) -> float | None:
        joules = self._rapl.joules()
        now = self._clock()
        began = now - busy_s
        before = next((each for each in reversed(self._readings) if each[0] <= began), None)
        if joules is None or before is None or began - before[0] > _SLACK_S or now <= before[0]:
            return None
        return (joules - before[1]) / (now - before[0])


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
