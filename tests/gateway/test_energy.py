"""Joules: read from the processor's counters where they are, else estimated and marked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.core.routing import Tier, Upstream, Zone
from gateway.energy import EnergyMeter, Rapl, estimate
from tests.fakes.clock import FakeClock

SPAN_UJ = 262_143_328_850


class Powercap:
    """A /sys/class/powercap whose counters a test sets, with the entries that must not count."""

    def __init__(self, root: Path, packages: int = 1) -> None:
        self.root = root
        for i in range(packages):
            self._zone(f"intel-rapl:{i}", f"package-{i}")
            self._zone(f"intel-rapl:{i}:0", "core")
        self._zone("intel-rapl:9", "psys")
        (root / "intel-rapl").mkdir()

    def set(self, joules: float, package: int = 0) -> None:
        (self.root / f"intel-rapl:{package}" / "energy_uj").write_text(f"{int(joules * 1e6)}\n")

    def _zone(self, folder: str, name: str) -> None:
        zone = self.root / folder
        zone.mkdir()
        (zone / "name").write_text(name + "\n")
        (zone / "max_energy_range_uj").write_text(f"{SPAN_UJ}\n")
        (zone / "energy_uj").write_text("1000000\n")


def upstream(zone: Zone = Zone.MACHINE, watts: float | None = None) -> Upstream:
    return Upstream(name="u", kind="llama_cpp", tier=Tier.LOCAL, zone=zone, model="m", watts=watts)


def test_an_estimate_is_watts_times_seconds() -> None:
    """Watts times seconds, and never below zero."""
    assert estimate(30.0, 2.0) == 60.0
    assert estimate(30.0, -1.0) == 0.0


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    """Energy is the packages' sum since the start; cores and psys are inside or beside it."""
    powercap = Powercap(tmp_path, packages=2)
    rapl = Rapl(tmp_path)
    powercap.set(11.0, package=0)
    powercap.set(6.0, package=1)
    assert rapl.joules() == pytest.approx(15.0)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    """Energy keeps growing when the processor's counter starts again at zero."""
    powercap = Powercap(tmp_path)
    powercap.set(SPAN_UJ / 1e6 - 5.0)
    rapl = Rapl(tmp_path)
    powercap.set(7.0)
    assert rapl.joules() == pytest.approx(12.0)


def test_no_counters_and_a_vanished_counter(tmp_path: Path) -> None:
    """Without counters, or once one cannot be read, there is no reading and no exception."""
    assert Rapl(tmp_path / "absent").joules() is None
    powercap = Powercap(tmp_path)
    rapl = Rapl(tmp_path)
    assert rapl.readable
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    assert rapl.joules() is None
    assert not rapl.readable


def test_garbage_in_a_counter_is_no_counter(tmp_path: Path) -> None:
    """A file that holds no number counts as absent."""
    Powercap(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("n/a")
    assert not Rapl(tmp_path).readable


def test_an_answer_gets_the_mean_power_of_its_time(tmp_path: Path) -> None:
    """Measured: the packages' mean power from just before the start, times the answer's seconds."""
    powercap, clock = Powercap(tmp_path), FakeClock()
    meter = EnergyMeter(Rapl(tmp_path), clock=clock)
    assert meter.sample()
    clock.advance(5)
    powercap.set(1.0 + 100.0)
    assert meter.joules(upstream(), 4.0) == (pytest.approx(80.0), False)


def test_answers_at_once_share(tmp_path: Path) -> None:
    """Four answers at once are each given a quarter."""
    powercap, clock = Powercap(tmp_path), FakeClock()
    meter = EnergyMeter(Rapl(tmp_path), clock=clock, sharing=lambda: 4)
    meter.sample()
    clock.advance(2)
    powercap.set(1.0 + 80.0)
    assert meter.joules(upstream(), 2.0) == (pytest.approx(20.0), False)


def test_without_a_reading_from_its_start_an_answer_is_estimated(tmp_path: Path) -> None:
    """An idle hour before the answer is not averaged into it."""
    powercap, clock = Powercap(tmp_path), FakeClock()
    meter = EnergyMeter(Rapl(tmp_path), clock=clock)
    meter.sample()
    clock.advance(3600)
    powercap.set(9000.0)
    assert meter.joules(upstream(watts=20.0), 5.0) == (100.0, True)
    assert meter.joules(upstream(), 5.0) == (None, True)


def test_other_machines_are_estimated(tmp_path: Path) -> None:
    """This machine's counters say nothing about an upstream elsewhere."""
    clock = FakeClock()
    Powercap(tmp_path)
    meter = EnergyMeter(Rapl(tmp_path), clock=clock)
    meter.sample()
    clock.advance(1)
    assert meter.joules(upstream(zone=Zone.PUBLIC, watts=300.0), 1.0) == (300.0, True)
    assert meter.joules(upstream(zone=Zone.PUBLIC), 1.0) == (None, True)


def test_watching_ends_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    """watch returns at once without counters, and reads at once with them."""

    async def scene() -> None:
        await EnergyMeter(Rapl(tmp_path / "absent")).watch()
        Powercap(tmp_path)
        clock = FakeClock()
        meter = EnergyMeter(Rapl(tmp_path), clock=clock)
        watching = asyncio.create_task(meter.watch())
        await asyncio.sleep(0)
        clock.advance(1)
        assert meter.joules(upstream(), 1.0) == (0.0, False)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(scene())
