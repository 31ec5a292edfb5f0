"""Which models are in memory: loaded when asked for, within a budget of bytes. Pure, no clock.

    cold ──asked, and it fits──▶ loading ──▶ loaded ──idle, or in the way──▶ unloading ──▶ cold

Bytes count from the beginning of a load to the end of an unload, so the sum of what is not cold
never exceeds the budget, not even for a moment. For another model only what is idle, unpinned and
has been there for `min_stay` leaves, least recently used first: without that stay two models that
are asked in turn would do nothing but load. Who asks first is served first; a smaller model may
come in between only where nothing has to leave for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State: TypeAlias = Literal["cold", "loading", "loaded", "unloading"]
Reason: TypeAlias = Literal["memory", "idle"]
NEVER = float("inf")


@dataclass(slots=True, kw_only=True)
class Resident:
    """One model. `users` work with it, `askers` wait until it is loaded; times are the caller's.

    `keep_alive`: seconds without users after which it leaves by itself.
    """

    name: str
    size: int
    pinned: bool = False
    keep_alive: float = NEVER
    state: State = "cold"
    users: int = 0
    askers: int = 0
    asked_at: float = 0.0
    since: float = 0.0
    used_at: float = 0.0
    loads: int = 0
    load_s: float = 0.0
    last_load_s: float | None = None
    unloads: Counter[str] = field(default_factory=Counter)

    @property
    def idle(self) -> bool:
        return self.state == "loaded" and not (self.pinned or self.users or self.askers)


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be begun now; the models are marked so already."""

    load: tuple[str, ...] = ()
    unload: tuple[tuple[str, Reason], ...] = ()


class Residency:
    """The books of a machine's memory. `budget` None: no bound. Every `now` is of one clock."""

    def __init__(self, *, budget: int | None = None, min_stay: float = 0.0) -> None:
        self.budget = budget
        self.models: dict[str, Resident] = {}
        self._limit: float = NEVER if budget is None else budget
        self._min_stay = min_stay

    def add(self, model: Resident) -> None:
        """Take a model into the books, cold."""
        self.models[model.name] = model

    def remove(self, name: str) -> None:
        """Forget a model, whatever it is doing: its process has ended."""
        self.models.pop(name, None)

    @property
    def used(self) -> int:
        """Bytes that are taken or promised."""
        return sum(m.size for m in self.models.values() if m.state != "cold")

    def room(self, name: str) -> float:
        """The most that this model can ever have: the budget without the others' pins."""
        pins = sum(m.size for m in self.models.values() if m.pinned and m.name != name)
        return self._limit - pins

    def fits(self, name: str) -> bool:
        """Whether it could be loaded now with nothing leaving."""
        return self.used + self.models[name].size <= self._limit

    def ask(self, name: str, now: float) -> None:
        """Somebody waits for this model. To be undone by `forgo`, also once it is entered."""
        model = self.models[name]
        if not model.askers:
            model.asked_at = now
        model.askers += 1

    def forgo(self, name: str, now: float) -> None:
        model = self.models[name]
        model.askers -= 1
        model.used_at = now

    def enter(self, name: str, now: float) -> bool:
        """Begin to use a loaded model; False while it is not loaded."""
        model = self.models[name]
        if model.state != "loaded":
            return False
        model.users += 1
        model.used_at = now
        return True

    def leave(self, name: str, now: float) -> None:
        model = self.models[name]
        model.users -= 1
        model.used_at = now

    def loaded(self, name: str, now: float, *, well: bool = True) -> None:
        """A load has ended. `well` False is not counted: its supervisor goes on trying."""
        model = self.models[name]
        if well:
            model.last_load_s = now - model.since
            model.loads += 1
            model.load_s += model.last_load_s
        model.state, model.since, model.used_at = "loaded", now, now

    def unloaded(self, name: str) -> None:
        """An unload has ended: the process is gone, and its memory with it."""
        self.models[name].state = "cold"

    def step(self, now: float) -> Step:
        """What to begin now. To be asked after every change, and again at `next_at`."""
        unload = [
            self._leave(model, "idle")
            for model in self.models.values()
            if model.idle and now >= model.used_at + model.keep_alive
        ]
        load: list[Resident] = []
        wanted = [m for m in self.models.values() if m.state == "cold" and m.askers]
        wanted.sort(key=lambda m: m.asked_at)
        first = True
        for model in wanted:
            if model.size > self.room(model.name):
                continue  # whoever asked will hear so
            if self.fits(model.name):
                model.state, model.since = "loading", now
                load.append(model)
            elif first:
                first = False
                victims = self._victims(model, now)
                if victims is None:
                    continue  # nothing can leave for it yet; others may have what is free
                unload += [self._leave(victim, "memory") for victim in victims]
                break  # what becomes free is this one's
        return Step(tuple(m.name for m in load), tuple(unload))

    def next_at(self, now: float) -> float | None:
        """When time alone will have changed what `step` says; None: only news will."""
        times = [m.used_at + m.keep_alive for m in self.models.values() if m.idle]
        if any(m.state == "cold" and m.askers for m in self.models.values()):
            times += [m.since + self._min_stay for m in self.models.values() if m.idle]
        times = [time for time in times if now < time < NEVER]
        return min(times, default=None)

    def _victims(self, model: Resident, now: float) -> list[Resident] | None:
        """Who must leave for `model`, none if enough are leaving; None if that is not possible."""
        leaving = sum(m.size for m in self.models.values() if m.state == "unloading")
        missing = self.used - leaving + model.size - self._limit
        victims: list[Resident] = []
        able = [m for m in self.models.values() if m.idle and now >= m.since + self._min_stay]
        for each in sorted(able, key=lambda m: m.used_at):
            if missing <= 0:
                break
            victims.append(each)
            missing -= each.size
        return victims if missing <= 0 else None

    def _leave(self, model: Resident, why: Reason) -> tuple[str, Reason]:
        model.state = "unloading"
        model.unloads[why] += 1
        return model.name, why
