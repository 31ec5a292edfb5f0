"""All upstreams with what we know of them right now: health, breaker, load, latency."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from backends.base import Backend, Health
from gateway.breaker import Breaker
from gateway.core.errors import (
    EngineFailed,
    TandemError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRejected,
)
from gateway.core.routing import Candidate, Upstream

logger = logging.getLogger("tandem.fleet")

SMOOTHING = 0.2
DEFAULT_COOLDOWN_S = 1.0
LONGEST_COOLDOWN_S = 600.0
HEALTH_EVERY_S = 2.0
SOONEST_LOOK_S = 0.1
"""An upstream that has just gone down is looked at again this soon, then ever more rarely: a local
worker is back within a second, a box in the office may take the afternoon."""


@dataclass(slots=True)
class _Member:
    backend: Backend
    breaker: Breaker = field(default_factory=Breaker)
    health: Health = Health(ok=False, detail="starting")
    in_flight: int = 0
    ttft_s: float | None = None
    hurt: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """Owns the backends from start to close.

    `backends` must be in building order: a combined backend after its parts.
    """

    def __init__(self, backends: Mapping[str, Backend], clock: Callable[[], float]) -> None:
        self._members = {name: _Member(backend) for name, backend in backends.items()}
        self._clock = clock
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every backend, parts before wholes, and then keep an eye on their health."""
        for member in self._members.values():
            await member.backend.start()
        await self.look()
        self._watchers = [
            asyncio.create_task(self._watch(name, member), name=f"health of {name}")
            for name, member in self._members.items()
        ]

    def assume_healthy(self) -> None:
        """For explanations of a fleet that was never started."""
        for member in self._members.values():
            member.health = Health(ok=True, detail="not asked")

    async def aclose(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for member in reversed(self._members.values()):
            await member.backend.aclose()

    @property
    def names(self) -> Collection[str]:
        return self._members.keys()

    def backend(self, name: str) -> Backend:
        return self._members[name].backend

    def upstreams(self) -> list[Upstream]:
        return [member.backend.upstream for member in self._members.values()]

    def health(self) -> dict[str, Health]:
        return {name: member.health for name, member in self._members.items()}

    def in_flight(self) -> dict[str, int]:
        return {name: member.in_flight for name, member in self._members.items()}

    def snapshot(self, names: Iterable[str]) -> tuple[Candidate, ...]:
        """The named upstreams as they are now, in the given order."""
        now = self._clock()
        members = ((name, self._members[name]) for name in names)
        return tuple(
            Candidate(
                upstream=m.backend.upstream,
                healthy=m.health.ok and m.breaker.allows(now),
                in_flight=m.in_flight,
                ttft_s=m.ttft_s,
            )
            for _, m in members
        )

    def begin(self, name: str) -> bool:
        """Start an attempt; False when the breaker has let somebody else probe first."""
        member = self._members[name]
        if not member.breaker.enter(self._clock()):
            return False
        member.in_flight += 1
        return True

    def end(self, name: str, error: BaseException | None, ttft_s: float | None) -> None:
        """Finish an attempt that `begin` let through. Exactly once each."""
        member = self._members[name]
        member.in_flight -= 1
        if ttft_s is not None:
            old = member.ttft_s
            member.ttft_s = ttft_s if old is None else old + SMOOTHING * (ttft_s - old)
        match error:
            case None | UpstreamRejected():
                member.breaker.succeeded()
            case UpstreamOverloaded():
                pause = min(error.retry_after or DEFAULT_COOLDOWN_S, LONGEST_COOLDOWN_S)
                member.breaker.cool(self._clock() + pause)
            case EngineFailed():
                # Its supervisor knows when it is back, and the health watch sees that at once; a
                # breaker would keep it out for longer.
                member.breaker.abandoned()
                member.health = Health(ok=False, detail="its worker ended")
                member.hurt.set()
            case UpstreamError():
                member.breaker.failed(self._clock())
            case TandemError():
                member.breaker.succeeded()
            case _:
                member.breaker.abandoned()

    async def look(self) -> None:
        """Ask every backend how it is, all at once."""
        await asyncio.gather(*(self._look_at(n, m) for n, m in self._members.items()))

    async def _look_at(self, name: str, member: _Member) -> None:
        try:
            health = await member.backend.health()
        except TandemError as error:
            health = Health(ok=False, detail=error.message)
        if health.ok != member.health.ok:
            logger.info("upstream %s is %s %s", name, _word(health), health.detail)
        member.health = health

    async def _watch(self, name: str, member: _Member) -> None:
        pause = HEALTH_EVERY_S
        while True:
            try:
                async with asyncio.timeout(pause):
                    await member.hurt.wait()
            except TimeoutError:
                pass
            else:
                member.hurt.clear()
                pause = SOONEST_LOOK_S / 2
            await self._look_at(name, member)
            pause = HEALTH_EVERY_S if member.health.ok else min(pause * 2, HEALTH_EVERY_S)


def _word(health: Health) -> str:
    return "up" if health.ok else "down:"
