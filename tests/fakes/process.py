"""`tandem serve` as a process of its own, started and stopped as a user would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTS_WITHIN_S = 60
ADDRESS = re.compile(r"on (http://127\.0\.0\.1:\d+)")


@dataclass
class Serving:
    """A running gateway. `output` is what it printed until it was ready."""

    process: subprocess.Popen[str]
    base_url: str
    output: str

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=40)


def clean_env(**extra: str) -> dict[str, str]:
    """Our environment without keys that would make zero configuration reach out."""
    plain = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    plain.pop("TANDEM_MODELS", None)
    return {**plain, "PYTHONUNBUFFERED": "1", **extra}


@contextmanager
def serve(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    all_up: bool = True,
) -> Iterator[Serving]:
    """Run `tandem serve` until the block ends. Fails with its output if it does not come up, with
    all its upstreams or, not `all_up`, with some.
    """
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--model-dir", empty]
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=dict(env if env is not None else clean_env()),
        )
        try:
            yield _ready(process, errors, all_up)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=40)
                except subprocess.TimeoutExpired:
                    process.kill()
            assert process.stdout is not None
            process.stdout.close()


def _ready(process: subprocess.Popen[str], errors: object, all_up: bool) -> Serving:
    assert process.stdout is not None
    output: list[str] = []
    for line in process.stdout:
        output.append(line)
        found = ADDRESS.search("".join(output))
        # The announcement ends with its examples and an empty line.
        if found and line == "\n" and any(text.startswith(("try:", "no model")) for text in output):
            base_url = found[1]
            _wait_ready(base_url, all_up)
            return Serving(process, base_url, "".join(output))
    errors.seek(0)  # type: ignore[attr-defined]
    raise AssertionError(f"tandem serve ended: {errors.read()}")  # type: ignore[attr-defined]


def _wait_ready(base_url: str, all_up: bool) -> None:
    """Until every upstream is up: the companion starts beside us."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        answer = httpx.get(f"{base_url}/readyz", trust_env=False)
        if answer.status_code == 200 and not (all_up and answer.json()["upstreams_down"]):
            return
        time.sleep(0.05)
    raise AssertionError("the gateway did not become ready")


def family(pid: int) -> set[int]:
    """Every living descendant of a process."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        parent = todo.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = {int(child) for child in task.read_text().split()}
            except OSError:
                continue
            found |= children
            todo += children
    return found


def workers(pid: int, model: str = "") -> list[int]:
    """The engine workers under a gateway, its companion's too; of one model if it is named."""
    names = {}
    for child in family(pid):
        try:
            names[child] = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
    return [
        child
        for child, line in names.items()
        if b"backends.engine.worker" in line and model.encode() in line
    ]
