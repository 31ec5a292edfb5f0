"""All upstreams with what we know of them right now: health, breaker, load, latency."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from backends.base import Backend, Health, Queues
from backends.speculative.seams import Speculates
from gateway.core.errors import (
    EngineFailed,
    LocalUnavailable,
    ModelLoading,
    TandemError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRejected,
)
from gateway.core.routing import Candidate, Tier, Upstream, Zone
from gateway.resilience.breaker import Breaker
from gateway.resilience.concurrency import ConcurrencyLimit
from gateway.resilience.retry_budget import RetryBudget
from gateway.resilience.vitals import UpstreamVitals

logger = logging.getLogger("tandem.fleet")

SMOOTHING = 0.2
OWN_PART = 0.1
"""Of a time to first content, at least so much is not put down to the queue before it."""
DEFAULT_COOLDOWN_S = 1.0
BAD_CREDENTIAL_S = 60.0
"""An upstream that refuses our key, or is out of credit, is left alone for so long."""
LONGEST_COOLDOWN_S = 600.0
HEALTH_EVERY_S = 2.0
SOONEST_LOOK_S = 0.1
"""An upstream that has just gone down is looked at again this soon, then ever more rarely: a local
worker is back within a second, a box in the office may take the afternoon."""


@dataclass(slots=True)
class _Member:
    backend: Backend
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    limit: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    health: Health = Health(ok=False, detail="starting")
    ttft_s: float | None = None
    hurt: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None
    limited: bool = False
    """Not so a local model: it has a queue that knows its slots; nothing is learnt there."""
    speculates: Speculates | None = None
    queues: Queues | None = None

    def __post_init__(self) -> None:
        # Once: a request's time to ask whether a protocol is met is that of half its plan.
        self.limited = self.backend.upstream.tier is Tier.CLOUD
        self.speculates = self.backend if isinstance(self.backend, Speculates) else None
        self.queues = self.backend if isinstance(self.backend, Queues) else None

    def candidate(self, now: float) -> Candidate:
        """As it is at this moment."""
        health, breaker, limit = self.health.ok, self.breaker, self.limit
        rests = None if breaker.rested(now) else breaker
        return Candidate(
            upstream=self.backend.upstream,
            healthy=(
                health
                and (rests is None or rests.allows(now))
                and not (self.limited and limit.overfull)
            ),
            full=self.limited and limit.full,
            in_flight=self.budget.active,
            ttft_s=self.ttft_s,
            rests_s=0.0 if rests is None else rests.rests_for(now),
            probe=rests is not None and health and rests.may_panic(now),
            gain=None if self.speculates is None else self.speculates.gain,
            wait_s=None if self.queues is None else self.queues.wait_s,
        )


class Trial:
    """One attempt at one upstream: what it was like, reported once. Made by `Fleet.begin`."""

    def __init__(self, member: _Member, clock: Callable[[], float], *, retry: bool) -> None:
        self._member = member
        self._clock = clock
        self._retry = retry
        self._probes = not member.breaker.closed
        self._waits = True
        self._expected_s = 0.0 if member.queues is None else member.queues.wait_s
        member.limit.waiting += 1

    def first_content(self, ttft_s: float) -> None:
        """The upstream has begun its answer, so many seconds after it was asked."""
        member = self._member
        old, own_s = member.ttft_s, max(ttft_s - self._expected_s, OWN_PART * ttft_s)
        member.ttft_s = own_s if old is None else old + SMOOTHING * (own_s - old)
        member.limit.see(ttft_s)
        self._no_longer_waits()

    def end(self, error: BaseException | None) -> None:
        """It is over. Exactly once."""
        self._no_longer_waits()
        self._member.budget.end(retry=self._retry, failed=self._verdict(error))

    def _no_longer_waits(self) -> None:
        self._member.limit.waiting -= self._waits
        self._waits = False

    def _verdict(self, error: BaseException | None) -> bool | None:
        """Tell the breaker; whether the upstream failed, None if nobody can say."""
        member, now = self._member, self._clock()
        # Begun before the breaker opened: that waits for its probe's word now. All who were under
        # way when an upstream died would else double its pause, one after the other.
        late = not (self._probes or member.breaker.closed)
        match error:
            case UpstreamError(code="upstream_auth" | "upstream_credit"):
                member.breaker.succeeded(now)
                member.breaker.cool(now + BAD_CREDENTIAL_S)
                logger.error("upstream %s refuses our account", member.backend.upstream.name)
                return True
            case None | UpstreamRejected():
                member.breaker.succeeded(now)
                return False
            case UpstreamOverloaded():
                pause = min(error.retry_after or DEFAULT_COOLDOWN_S, LONGEST_COOLDOWN_S)
                member.breaker.cool(now + pause)
                return True
            case EngineFailed():
                # Its supervisor knows when it is back, and the health watch sees that at once; a
                # breaker would keep it out for longer.
                member.breaker.abandoned()
                member.health = Health(ok=False, detail="its worker ended")
                member.hurt.set()
                return True
            case UpstreamError():
                if not late:
                    member.breaker.failed(now)
                return True
            case TandemError() if not isinstance(error, ModelLoading):
                member.breaker.succeeded(now)
                return False
            case _:
                if not late:
                    member.breaker.abandoned()
                return None


class Reach:
    """The upstreams inside one zone. A request that has only this has no way to any other.

    Raises LocalUnavailable for a name that is not inside, whoever came up with it.
    """

    def __init__(
        self, members: Mapping[str, _Member], zone: Zone, clock: Callable[[], float]
    ) -> None:
        self._members = {
            name: member
            for name, member in members.items()
            if zone.admits(member.backend.upstream.zone)
        }
        self._zone = zone
        self._clock = clock

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def backend(self, name: str) -> Backend:
        return self._member(name).backend

    def begin(self, name: str, *, retry: bool = False, probe: bool = False) -> Trial | None:
        """Start an attempt; None if it may not be: somebody else probes, or it would be one
        fallback too many for an upstream that is in trouble itself.
        """
        member = self._member(name)
        if not member.budget.begin(retry=retry):
            return None
        if not member.breaker.enter(self._clock(), panic=probe):
            member.budget.end(retry=retry, failed=None)
            return None
        return Trial(member, self._clock, retry=retry)

    def _member(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None:
            raise LocalUnavailable(f"Upstream {name!r} lies outside the zone {self._zone.label!r}.")
        return member


class Fleet:
    """Owns the backends from start to close.

    `backends` must be in building order: a combined backend after its parts. What `before`, the
    fleet of the configuration that ends, has of them stays as it is: running, and with all that we
    know of it.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Callable[[], float],
        before: Fleet | None = None,
    ) -> None:
        known = {id(m.backend): m for m in before._members.values()} if before else {}
        self._members: dict[str, _Member] = {
            name: known.get(id(backend)) or _Member(backend) for name, backend in backends.items()
        }
        self._clock = clock
        self._reach = {zone: Reach(self._members, zone, clock) for zone in Zone}

    async def start(self) -> None:
        """Start what is new, parts before wholes, and then keep an eye on its health."""
        new = {name: m for name, m in self._members.items() if m.watcher is None}
        for member in new.values():
            await member.backend.start()
        await asyncio.gather(*(self._look_at(name, member) for name, member in new.items()))
        for name, member in new.items():
            watch = self._watch(name, member)
            member.watcher = asyncio.create_task(watch, name=f"health of {name}")

    def assume_healthy(self) -> None:
        """For explanations of a fleet that was never started."""
        for member in self._members.values():
            member.health = Health(ok=True, detail="not asked")

    async def aclose(self, after: Fleet | None = None) -> None:
        """Stop everything, wholes before parts, but for what `after` goes on with."""
        kept = {id(member) for member in after._members.values()} if after else set()
        going = [m for m in reversed(self._members.values()) if id(m) not in kept]
        watchers = [member.watcher for member in going if member.watcher is not None]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for member in going:
            await member.backend.aclose()

    @property
    def names(self) -> Collection[str]:
        return self._members.keys()

    def within(self, zone: Zone) -> Reach:
        """What a request of that zone may be sent to, and nothing else (DESIGN 2.3)."""
        return self._reach[zone]

    def upstreams(self) -> list[Upstream]:
        return [member.backend.upstream for member in self._members.values()]

    def health(self) -> dict[str, Health]:
        return {name: member.health for name, member in self._members.items()}

    def in_flight(self) -> dict[str, int]:
        return {name: member.budget.active for name, member in self._members.items()}

    def vitals(self) -> dict[str, UpstreamVitals]:
        """What resilience knows of each upstream, for the metrics."""
        now = self._clock()
        return {
            name: UpstreamVitals(
                breaker=0 if m.breaker.closed else 2 if m.breaker.allows(now) else 1,
                opened=m.breaker.opened,
                retry_budget=m.budget.remaining,
                concurrency_limit=m.limit.limit,
                waiting=m.limit.waiting,
            )
            for name, m in self._members.items()
        }

    def snapshot(self, names: Iterable[str]) -> tuple[Candidate, ...]:
        """The named upstreams as they are now, in the given order."""
        now, members = self._clock(), self._members
        return tuple([members[name].candidate(now) for name in names])

    async def look(self) -> None:
        """Ask every backend how it is, all at once."""
        await asyncio.gather(*(self._look_at(n, m) for n, m in self._members.items()))

    async def _look_at(self, name: str, member: _Member) -> None:
        try:
            health = await member.backend.health()
        except TandemError as error:
            health = Health(ok=False, detail=error.message)
        if health.ok != member.health.ok:
            why = f": {health.detail}" if health.detail else ""
            logger.info("upstream %s is %s%s", name, _word(health), why)
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
