"""A request goes where it is answered in time: past a queue that its client would not sit out.

It comes after the policies and balancing, and moves only what cannot make the request's deadline,
by its predicted wait, behind what can. It buys nothing once an alias's money is spent. Each request
is judged by itself, so as soon as the queue has gone the route is as it was.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.core.routing import Candidate, Route, Tier

REASON = "capacity"


def spilled(route: Route, left_s: float | None, *, capped: bool = False) -> Route:
    """The route for a request that has so many seconds left, None: as many as it takes.

    `capped`: its alias may spend no more this hour, so it goes past a queue to local ones alone.
    """
    if left_s is None or len(route.candidates) < 2 or not _late(route.candidates[0], left_s):
        return route
    late = [each for each in route.candidates if _late(each, left_s)]
    in_time = [each for each in route.candidates if not _late(each, left_s)]
    if not in_time or not in_time[0].healthy:
        return route
    if capped and in_time[0].upstream.tier is not Tier.LOCAL:
        return route
    return replace(route, candidates=(*in_time, *late), reason=REASON)


def _late(candidate: Candidate, left_s: float) -> bool:
    """Whether it would not even begin in time. Without a queue of its own nobody is."""
    wait = candidate.wait_s or 0.0
    return wait > 0 and wait + (candidate.ttft_s or 0.0) > left_s
