"""CPU seconds of a process and of all that it started."""

from __future__ import annotations

from gateway.bench.engine import cpu_seconds as own_seconds
from tests.fakes.process import family


def cpu_seconds(pid: int) -> float:
    """User and system time of one process, all its threads. Linux."""
    seconds = own_seconds(pid)
    assert seconds is not None
    return seconds


def tree_seconds(pid: int) -> float:
    """The same for a process and every descendant that lives now."""
    return sum(cpu_seconds(each) for each in (pid, *family(pid)))
