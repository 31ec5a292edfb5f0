"""What counts as standing still, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from backends.engine.heartbeat import MISSED, UNSEEN, Heartbeat


@contextmanager
def running(code: str) -> Iterator[int]:
    """A Python process that says when it has begun."""
    command = [sys.executable, "-c", f"print(flush=True)\n{code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_process_that_answers_is_alive() -> None:
    """However long: each answer begins the count anew."""
    heartbeat = Heartbeat(os.getpid())
    for _ in range(5 * MISSED):
        assert not heartbeat.tick()
        heartbeat.answered()


def test_a_stopped_process_is_hung_after_some_ticks() -> None:
    """It answers nothing and uses no processor; not at the first tick, as nobody had asked."""
    with running("import time; time.sleep(60)") as pid:
        os.kill(pid, signal.SIGSTOP)
        heartbeat = Heartbeat(pid)
        ticks = 1
        while not heartbeat.tick():
            ticks += 1
            time.sleep(0.02)
        assert MISSED < ticks <= MISSED + 2  # it may just have computed something at the first


def test_a_busy_process_is_not_hung() -> None:
    """One that computes without answering is slow; whether too slow is the step watchdog's."""
    with running("while True: pass") as pid:
        heartbeat = Heartbeat(pid)
        for _ in range(4 * MISSED):
            assert not heartbeat.tick()
            time.sleep(0.02)


def test_without_a_process_list_silence_alone_counts() -> None:
    """Where there is no /proc the answers must do, and more of them may be missing."""
    heartbeat, patience = Heartbeat(-1), UNSEEN * MISSED
    assert [heartbeat.tick() for _ in range(patience + 1)] == [False] * patience + [True]
