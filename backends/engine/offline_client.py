"""Starts offline.py and hands on what it says: quantize or compare, with progress."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.engine.environment import plain

_ROOT = Path(__file__).resolve().parents[2]


class OfflineFailed(Exception):
    """The work was not done; the message is a sentence for the user."""


def run(op: str, progress: Callable[[float], None], **arguments: object) -> dict[str, Any]:
    """Do `op` in a process of its own; its result. Raises OfflineFailed."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise OfflineFailed("llama-cpp-python is not installed (the extra `local`).")
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "backends.engine.offline",
            json.dumps({"op": op, "arguments": arguments}),
            str(os.getpid()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**plain(os.environ), "PYTHONPATH": str(_ROOT), "GGML_NO_BACKTRACE": "1"},
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            said = json.loads(line)
            if "error" in said:
                raise OfflineFailed(str(said["error"]))
            if "done" in said:
                result: dict[str, Any] = said["done"]
                return result
            progress(float(said["progress"]))
    finally:
        if child.poll() is None:
            child.kill()
        code = child.wait()
        child.stdout.close()
    died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    raise OfflineFailed(f"llama.cpp ended while it worked on the file ({died}); it may be damaged.")
