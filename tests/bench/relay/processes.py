"""Other people's processes: started on a core, measured, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(
    command: list[str], *, core: int, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command pinned to one core, in a group of its own that ends with the block."""
    with open(log or os.devnull, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=subprocess.PIPE if log is None else errors,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def stub(core: int) -> Iterator[int]:
    """Our own upstream; its port."""
    path = Path(__file__).with_name("stub.py")
    with started([sys.executable, str(path)], core=core) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def family(pid: int) -> set[int]:
    """A process and its living descendants."""
    found, todo = {pid}, [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = {int(child) for child in task.read_text().split()} - found
                found |= children
                todo += children
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process with its living descendants."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def rss_mb(pid: int) -> float:
    """Resident memory in MiB of a process with its living descendants."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    total += int(line.split()[1])
    return total / 1024
