"""Reading a configuration again: when it or a file of its router changed, and at SIGHUP.

A file that cannot be used changes nothing: what is wrong with it is logged, with its lines, and the
configuration in force stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeAlias

from gateway.config import Config

logger = logging.getLogger("tandem.reload")

LOOK_EVERY_S = 1.0

State: TypeAlias = tuple[int, int, int] | None


class Reloader:
    """Watches `path`, and the files that `beside` names at the time, while it runs.

    `read` makes the configuration anew and raises ValueError (ConfigError is one); `apply` puts it
    in force, and raises the same; `told` hears `ok` or `error` after each attempt.
    """

    def __init__(
        self,
        path: Path,
        *,
        read: Callable[[], Config],
        apply: Callable[[Config], Awaitable[None]],
        told: Callable[[str], None],
        beside: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        self._path = path
        self._read = read
        self._apply = apply
        self._told = told
        self._beside = beside
        self._asked = asyncio.Event()
        self._seen = self._states()

    def ask(self) -> None:
        """Read it again, changed or not: a secret in another file may have."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled. Call from the main thread."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.ask)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._asked.wait()
                before, self._seen = self._seen, await asyncio.to_thread(self._states)
                # What is not there is not read: it may be about to be replaced. What is named anew
                # has just been read.
                changed = any(
                    state is not None and before.get(path, state) != state
                    for path, state in self._seen.items()
                )
                if self._asked.is_set() or changed:
                    self._asked.clear()
                    await self._reload()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _states(self) -> dict[Path, State]:
        return {path: state_of(path) for path in (self._path, *self._beside())}

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(self._read)
            await self._apply(config)
        except (ValueError, OSError) as error:
            logger.error("the configuration stays as it was:\n%s", error)
            self._told("error")
        except Exception:
            logger.exception("the configuration stays as it was")
            self._told("error")
        else:
            logger.info("%s is in force", self._path)
            self._told("ok")


def state_of(path: Path) -> State:
    """What changes when a file is written or put in another's place; None while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
