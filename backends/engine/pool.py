"""Local models that share this machine's memory: who may use which, and who has to wait.

`residency.py` decides; here are the waiting and the doing. Loads and unloads are the pool's own
tasks: however many requests wait for a model, and whoever of them leaves, it is loaded once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from backends.engine.residency import Residency, Resident
from gateway.core.errors import EngineFailed, ModelLoading

log = logging.getLogger(__name__)

BYTES_PER_S = 500_000_000
"""Guessed speed of a model's first load, until one has been timed."""
START_S = 0.5
"""A worker's start, without the model."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """What the pool does with a model. `load` says whether the worker serves; neither raises."""

    load: Callable[[], Awaitable[bool]]
    unload: Callable[[], Awaitable[None]]


class ModelPool:
    """The models of one process. Belongs to one event loop; `clock` is a monotonic one."""

    def __init__(
        self,
        *,
        budget: int | None = None,
        min_stay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._residency = Residency(budget=budget, min_stay=min_stay)
        self._clock = clock
        self._handles: dict[str, Handle] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def budget(self) -> int | None:
        """Bytes; None: no bound."""
        return self._residency.budget

    @property
    def models(self) -> Mapping[str, Resident]:
        """To look at, not to change."""
        return MappingProxyType(self._residency.models)

    def vacant(self, name: str) -> str:
        """A name for a model that is to come, while another of that name is still there."""
        taken, count = name, 1
        while taken in self._handles:
            count += 1
            taken = f"{name}#{count}"
        return taken

    def add(self, model: Resident, handle: Handle) -> None:
        """Take a cold model in."""
        self._residency.add(model)
        self._handles[model.name] = handle
        self._waiting[model.name] = set()

    async def remove(self, name: str) -> None:
        """Let go of a model; whatever its worker still does is the caller's to end."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if name in self._handles:
            del self._handles[name]
            self._residency.remove(name)
            self._wake(name)
            del self._waiting[name]
            self._turn()

    def refusal(self, name: str) -> str:
        """Why this model can never be loaded, as a sentence; "" if it can."""
        model = self.models.get(name)
        if model is None or model.size <= (room := self._residency.room(name)):
            return ""
        return (
            f"it needs {model.size / MIB:.0f} MiB, and memory.budget leaves it {room / MIB:.0f} MiB"
        )

    async def preload(self, name: str) -> bool:
        """Load a model now if that needs nothing to leave. Whether its load was tried."""
        if not self._residency.fits(name):
            return False
        self._residency.ask(name, self._clock())
        try:
            self._turn()
            if task := self._tasks.get(name):
                await asyncio.shield(task)
        finally:
            self._forgo(name)
        return True

    async def enter(self, name: str, patience: float) -> None:
        """Begin to use a model, loading it if it is cold; `leave` ends that. Until then it stays.

        Raises ModelLoading if it is not there within `patience` seconds, EngineFailed if it can
        never be.
        """
        if name not in self._handles:
            raise EngineFailed(f"the local engine is not running: {name!r} was never started")
        if self._residency.enter(name, self._clock()):
            return
        if why := self.refusal(name):
            raise EngineFailed(f"the model {name!r} cannot be loaded: {why}")
        news = asyncio.Event()
        self._waiting[name].add(news)
        self._residency.ask(name, self._clock())
        try:
            self._turn()
            async with asyncio.timeout(patience):
                while not self._residency.enter(name, self._clock()):
                    await news.wait()
                    news.clear()
                    if name not in self._handles:
                        raise EngineFailed("the engine is closed")
        except TimeoutError:
            if name not in self._handles:  # let go of in that very moment
                raise EngineFailed("the engine is closed") from None
            raise self._not_yet(name) from None
        finally:
            if name in self._handles:
                self._waiting[name].discard(news)
                self._forgo(name)

    def leave(self, name: str) -> None:
        if name in self._handles:
            self._residency.leave(name, self._clock())
            self._turn()

    def progress(self, name: str) -> Mapping[str, Any]:
        """A model's state, and while it loads how far it is: estimated from earlier loads."""
        model = self.models[name]
        told: dict[str, Any] = {"state": model.state, "memory_bytes": model.size}
        if model.state == "loading":
            passed, expected = self._clock() - model.since, self._expected(model)
            told["elapsed_s"], told["expected_s"] = round(passed, 2), round(expected, 2)
            told["progress"] = round(min(0.99, passed / expected), 2)
        elif model.state == "cold" and model.askers:
            told["state"] = "queued"
            told["elapsed_s"] = round(self._clock() - model.asked_at, 2)
        return told

    def load_left_s(self, name: str) -> float:
        """Seconds until a model could be used that somebody asks for now: 0 if it is there."""
        model = self.models.get(name)
        if model is None or model.state == "loaded":
            return 0.0
        begun = model.since if model.state == "loading" else model.asked_at
        passed = self._clock() - begun if model.state == "loading" or model.askers else 0.0
        return max(0.0, self._expected(model) - passed)

    def _not_yet(self, name: str) -> ModelLoading:
        model, told = self.models[name], self.progress(name)
        left = self._expected(model) - told.get("elapsed_s", 0.0)
        what = "is being loaded" if told["state"] == "loading" else "waits for memory"
        return ModelLoading(
            f"The model {name!r} {what}; try again in a moment.",
            retry_after=max(1.0, left),
            details={"loading": told},
        )

    def _expected(self, model: Resident) -> float:
        return model.last_load_s or START_S + model.size / BYTES_PER_S

    def _forgo(self, name: str) -> None:
        if name in self._handles:
            self._residency.forgo(name, self._clock())
            self._turn()

    def _turn(self) -> None:
        """Begin what is to be begun, and come back when time alone changes that."""
        now = self._clock()
        step = self._residency.step(now)
        for name, why in step.unload:
            log.info("%s: unloading (%s)", name, why)
            self._tasks[name] = asyncio.create_task(self._unload(name), name=f"unload {name}")
        for name in step.load:
            log.info("%s: loading", name)
            self._tasks[name] = asyncio.create_task(self._load(name), name=f"load {name}")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._residency.next_at(now)
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(at - now + 0.001, self._turn)

    async def _load(self, name: str) -> None:
        well = await self._handles[name].load()
        self._residency.loaded(name, self._clock(), well=well)
        self._done(name)

    async def _unload(self, name: str) -> None:
        await self._handles[name].unload()
        self._residency.unloaded(name)
        self._done(name)

    def _done(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._wake(name)
        self._turn()

    def _wake(self, name: str) -> None:
        for news in self._waiting[name]:
            news.set()
