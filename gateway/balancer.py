"""Orders a route's equals by what it has seen of them: warm prefixes, pace, what caches kept.

The decision is balance.py's; this is its memory, for as long as the process lives. A route without
two equals costs a comparison of names, and nothing is kept of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.balance import Groups, Member, arrange, gather, level, unread
from gateway.core.chat import ChatRequest, Endpoint, Usage
from gateway.core.lean import lean
from gateway.core.routing import Candidate, Price, Route, Zone
from gateway.pace import PER_TOKEN_S, Pace
from gateway.prefixes import Prefix, Prefixes

USD_PER_SECOND = 0.001
"""What a second of waiting is worth, to hold the price of cold tokens against it: 3.60 USD/h."""
UNKNOWN = 0.2, PER_TOKEN_S
"""The wait at an upstream and a token's reading, where none of its group was ever asked."""


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """What was considered: each group with its best member first, and the request's prefix.

    `warm` are the leading tokens that each upstream has read before, as far as we know.
    """

    groups: tuple[tuple[Member, ...], ...]
    prefix: Prefix | None
    warm: dict[str, float]

    def crowd(self, upstream: str) -> float:
        """How crowded it was at the choice; 1 for one of no group."""
        members = (member for group in self.groups for member in group)
        return next((member.crowd for member in members if member.name == upstream), 1.0)


class Balancer:
    """`clock` gives monotonic seconds; `rng` makes its choices repeatable."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self.prefixes = Prefixes()
        self._clock = clock
        self._rng = rng or random.Random()
        self._paces: dict[str, Pace] = {}

    def order(
        self,
        route: Route,
        request: ChatRequest,
        *,
        tenant: str,
        zone: Zone,
        groups: Groups | None,
        begin: int = 0,
    ) -> tuple[Route, Balanced | None]:
        """The route with its equals in their best order, from the place `begin` on.

        Reads what was learnt and changes none of it; (route, None) if there is nothing to balance.
        """
        found = gather(route.candidates, groups, begin)
        if not found:
            return route, None
        prefix: Prefix | None = None
        warm: dict[str, float] = {}
        if request.endpoint is not Endpoint.EMBEDDINGS:
            prefix = self.prefixes.of(request, tenant, zone)
            warm = self.prefixes.warm(prefix)
        candidates, choice, arranged = list(route.candidates), route.balance, []
        for places in found:
            members, why = arrange(self._members(route, places, prefix, warm), self._rng)
            for at, member in zip(sorted(places), members, strict=True):
                candidates[at] = member.candidate
            if 0 in places:
                choice = why
            arranged.append(tuple(members))
        balanced = Balanced(groups=tuple(arranged), prefix=prefix, warm=warm)
        return replace(route, candidates=tuple(candidates), balance=choice), balanced

    def begun(self, balanced: Balanced | None, upstream: str) -> None:
        """That upstream has read the prompt: its first content is there."""
        if balanced is not None and balanced.prefix is not None:
            self.prefixes.place(balanced.prefix, upstream, self._clock())

    def ended(self, balanced: Balanced | None, upstream: str, usage: Usage, ttft_s: float) -> None:
        """What its answer's usage and its first content's time say about it."""
        if balanced is None:
            return
        pace = self._paces.setdefault(upstream, Pace())
        prefix = balanced.prefix
        guess = prefix.tokens if prefix is not None else 0.0
        share = balanced.warm.get(upstream, 0.0) / guess if guess else 0.0
        tokens = guess if usage.estimated else float(usage.prompt_tokens)
        cold = tokens * (1 - share * pace.keeps)
        if not usage.estimated:
            pace.see_cached(usage.cached_tokens, tokens * share)
            if pace.reports:
                cold = max(0.0, tokens - usage.cached_tokens)
        pace.see(ttft_s / balanced.crowd(upstream), cold, self._clock())

    def pace(self, upstream: str) -> Pace:
        """What is known of its pace."""
        return self._paces.get(upstream, _UNKNOWN)

    def _members(
        self,
        route: Route,
        places: dict[int, float],
        prefix: Prefix | None,
        warm: dict[str, float],
    ) -> list[Member]:
        now = self._clock()
        candidates = [route.candidates[at] for at in places]
        paces = [self._paces.get(each.upstream.name, _UNKNOWN) for each in candidates]
        tokens = prefix.tokens if prefix is not None else 0.0
        known = [(p.base_s, p.per_token_s) for p in paces if p.base_s is not None]
        best = min(known, key=lambda pace: pace[0] + tokens * pace[1], default=UNKNOWN)
        times = level([pace.now(best, now) for pace in paces], tokens)
        names = [each.upstream.name for each in candidates]
        kept = [warm.get(name, 0.0) * pace.keeps for name, pace in zip(names, paces, strict=True)]
        cold = unread(tokens, kept)
        members = []
        for at, (candidate, weight) in enumerate(zip(candidates, places.values(), strict=True)):
            wait, token_s = times[at]
            token_s += _extra_usd(candidate) / USD_PER_SECOND
            members.append(Member(candidate, weight, wait, kept[at], cold[at] * token_s))
        return members


_UNKNOWN = Pace()


def _extra_usd(candidate: Candidate) -> float:
    """What a token costs more that is read anew."""
    price: Price | None = candidate.upstream.price
    if price is None or price.cached_input is None:
        return 0.0
    return max(0.0, price.input - price.cached_input) / 1e6
