"""Who of several equals is asked first: power of two choices, priced by load and by warmth. Pure.

Balancing is not a policy: it comes after the policies have made an order, and only changes the
places of upstreams that stand equal in it. Two members are drawn at random (by weight) and the
cheaper goes first, which keeps the fullest near the mean without everybody running to the one that
was emptiest a moment ago (Mitzenmacher 2001). The member that knows the prompt best is compared
with these two. Cost is in seconds: the wait, and the reading of what is not warm.

A prefix must not melt one upstream: who has more in flight than its share of the group by a quarter
is no choice at all (consistent hashing with bounded loads, Mirrokni 2018).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from gateway.core.routing import Candidate, Upstream

WARM, LOAD, ONLY = "warm", "load", "only"
SIDE_BY_SIDE = 8
"""Requests in flight for each weight that double the wait: about where a batch has its knee."""
BOUND = 1.25
SLACK = 2.0
"""In flight beyond the bound all the same: with next to no traffic a mean says nothing."""
FOR_ALL = 1 / 8
NOISE = 1.5
"""Measured times within this factor are the same time; else the weights would mean nothing and
everybody would run to a difference of a millisecond."""

Groups: TypeAlias = Sequence[Mapping[str, float]]
"""Weights by upstream, a mapping for each group."""


class Member(NamedTuple):
    """A candidate among its equals, now.

    `wait_s` is for an idle upstream and nothing to read; `cold_s` for reading what is not warm.
    """

    candidate: Candidate
    weight: float = 1.0
    wait_s: float = 0.0
    warm: float = 0.0
    cold_s: float = 0.0

    @property
    def name(self) -> str:
        return self.candidate.upstream.name

    @property
    def crowd(self) -> float:
        """How many times longer one waits there than at an idle one."""
        return 1 + self.candidate.in_flight / (self.weight * SIDE_BY_SIDE)

    @property
    def cost_s(self) -> float:
        return (self.wait_s + self.cold_s) * self.crowd


def arrange(members: Sequence[Member], rng: random.Random) -> tuple[list[Member], str]:
    """The members best first, and why the first is first: `warm` or `load`.

    Those that are full come last. `members` are at least two.
    """
    ready = [each for each in members if not each.candidate.full] or list(members)
    share = BOUND * sum(m.candidate.in_flight for m in ready) / sum(m.weight for m in ready)
    # Never empty: the one that is least loaded for its weight is below the mean.
    room = [m for m in ready if m.candidate.in_flight <= share * m.weight + SLACK]
    chosen = _chosen(room, rng)
    rest = sorted(
        (each for each in members if each is not chosen),
        key=lambda each: (each.candidate.full, each.cost_s),
    )
    warmest = max(members, key=_warmth).warm
    return [chosen, *rest], WARM if chosen.warm and chosen.warm >= warmest else LOAD


def _chosen(room: Sequence[Member], rng: random.Random) -> Member:
    first = _draw(room, rng)
    others = [each for each in room if each is not first]
    if not others:
        return first
    contenders = [first, _draw(others, rng)]
    warmest = max(room, key=_warmth)
    if warmest.warm > max(map(_warmth, contenders)):
        contenders.append(warmest)
    return min(contenders, key=_cost)


def _draw(members: Sequence[Member], rng: random.Random) -> Member:
    at = rng.random() * sum(each.weight for each in members)
    for each in members:
        at -= each.weight
        if at < 0:
            return each
    return members[-1]


def _warmth(member: Member) -> float:
    return member.warm


def _cost(member: Member) -> float:
    return member.cost_s


def level(paces: Sequence[tuple[float, float]], tokens: float) -> list[tuple[float, float]]:
    """(wait, seconds a token) of each member, with those of the fastest for all that are within
    noise of it for a prompt of so many tokens."""
    whole = [wait + tokens * token_s for wait, token_s in paces]
    least = min(whole)
    best = paces[whole.index(least)]
    return [
        best if each <= least * NOISE else pace for each, pace in zip(whole, paces, strict=True)
    ]


def unread(tokens: float, warm: Sequence[float]) -> list[float]:
    """The tokens that each member has yet to read, counted by what that is worth.

    What half of the group has read already will be asked for again: to read it at one more place is
    for all who follow, and counts an eighth.
    """
    common = sorted(warm, reverse=True)[(len(warm) - 1) // 2] if len(warm) > 2 else 0.0
    return [max(0.0, tokens - known - max(0.0, common - known) * (1 - FOR_ALL)) for known in warm]


def gather(
    candidates: Sequence[Candidate], groups: Groups | None, begin: int = 0
) -> list[dict[int, float]]:
    """Places of candidates that stand equal, with their weights; only groups of at least two.

    `groups` are the operator's; None: who has the same model, price, tier and zone at the same kind
    of remote upstream is equal. Places before `begin` are not touched.
    """
    if groups is None:
        return _alike(candidates, begin)
    found = []
    for group in groups:
        names = ((at, candidates[at].upstream.name) for at in range(begin, len(candidates)))
        places = {at: group[name] for at, name in names if name in group}
        if len(places) > 1:
            found.append(places)
    return found


def _alike(candidates: Sequence[Candidate], begin: int) -> list[dict[int, float]]:
    seen: dict[str, list[int]] = {}
    for at in range(begin, len(candidates)):
        upstream = candidates[at].upstream
        # Two entries for one file here are two settings of it, and each takes memory.
        if upstream.kind != "llama_cpp":
            seen.setdefault(upstream.model, []).append(at)
    found: list[dict[int, float]] = []
    for model, places in seen.items():
        while model and len(places) > 1:
            first = candidates[places[0]].upstream
            same = [at for at in places if equal(first, candidates[at].upstream)]
            if len(same) > 1:
                found.append(dict.fromkeys(same, 1.0))
            places = [at for at in places if at not in same]
    return found


def equal(one: Upstream, other: Upstream) -> bool:
    """Whether it makes no difference to anybody which of the two answers."""
    if one is other:
        return True
    return (
        one.zone is other.zone
        and one.tier is other.tier
        and one.model == other.model
        and _priced(one) == _priced(other)
        and _made(one) == _made(other)
    )


def _priced(upstream: Upstream) -> tuple[object, ...] | None:
    price = upstream.price
    if price is None:
        return None
    return price.input, price.output, price.cached_input, price.up_to, price.kwh


def _made(upstream: Upstream) -> tuple[object, ...]:
    return upstream.revision, upstream.bits, upstream.kind, upstream.strategy, upstream.approximate
