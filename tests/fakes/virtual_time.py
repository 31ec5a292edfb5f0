"""An event loop whose time passes only while everybody waits: a minute of load in a second.

`asyncio.sleep` and every timeout end as soon as nothing else can run, in their order, and
`loop.time()` says the hour. For stories without sockets, processes and threads: those live in real
time, which does not pass here.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Call `block` to have the loop stand still for a while, as a long computation would."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Skipping(self))

    def time(self) -> float:
        return self.now

    def block(self, seconds: float) -> None:
        self.now += seconds


class _Skipping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nobody for the time")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready


def run(story: Coroutine[Any, Any, T]) -> T:
    """A story in virtual time. Raises RuntimeError if it can never go on."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)
