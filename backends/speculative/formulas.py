"""What drafting should cost, in closed forms (speculation.md): rates in seconds a token, and gains.

Pure. `alpha` is the share of drafts that hold, `target_s` a pass of the target alone, `draft_s` the
drafter's time for a token, `rtt_s` a round trip, `verify_s` a pass, by its width in `Mapping`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from backends.engine.payoff import Costs

SUMMED_PASSES = 1024
"""Of a cycle, one by one: this runs on the event loop, and acceptance comes as close to 1 as drafts
that always hold take it."""


def expected_tokens(alpha: float, drafted: int) -> float:
    """A(k): tokens that one pass over `drafted` draft tokens yields, the target's own included."""
    if alpha >= 1:
        return drafted + 1.0
    return float((1 - alpha ** (drafted + 1)) / (1 - alpha))


def sync_rate(alpha: float, drafted: int, draft_s: float, rtt_s: float, verify_s: float) -> float:
    """Draft, send, wait: one round at a time."""
    return (drafted * draft_s + rtt_s + verify_s) / expected_tokens(alpha, drafted)


def pipelined_rate(alpha: float, draft_s: float, rtt_s: float, verify_s: float) -> float:
    """Drafting goes on while a round is out; the verifier waits for drafts."""
    return draft_s + (1 - alpha) * (rtt_s + verify_s)


def never_idle_rate(alpha: float, target_s: float, draft_s: float, rtt_s: float) -> float:
    """The verifier goes on by itself while drafts are on their way. Never above `target_s`.

    After a miss the target runs alone until the drafter has caught up, which takes
    (rtt + target_s) / (target_s - draft_s) tokens that all must hold to matter.
    """
    lead = target_s - draft_s
    if lead <= 0:
        return target_s
    return float(target_s - lead * alpha ** ((rtt_s + target_s) / lead))


def never_idle_in_passes(
    alpha: float, target_s: float, draft_s: float, rtt_s: float, most: int = 8
) -> float:
    """The same without taking passes for a continuum: drafts are used when a pass begins.

    From one miss to the next is a cycle. Before pass m of it began, k = (m t1 - R - T_d / 2) / T_d
    drafts of the cycle had arrived, rounded down (the drafter first ends the step that it is in),
    so with r tokens settled before it and at most `most` verified, it settles max(r, k) and one
    more. A cycle of L hits has ended once r >= L, and P(L > r) = alpha^(r + 1); the mean number of
    passes over the mean number of tokens is the rate. Never above `target_s`.

    Where nearly all hold a cycle has no end to speak of: behind SUMMED_PASSES each pass is taken to
    settle what arrives during one, and the rest is a geometric sum.
    """
    if draft_s <= 0 or draft_s >= target_s:
        return target_s if draft_s > 0 else never_idle_rate(alpha, target_s, draft_s, rtt_s)
    steady = min(target_s / draft_s, most + 1.0)
    if alpha >= 1:
        return target_s / steady
    passes, settled, longer = 1.0, 0, 1.0
    for m in range(SUMMED_PASSES):
        arrived = int((m * target_s - rtt_s - draft_s / 2) / draft_s)
        settled = max(settled, min(arrived, settled + most))
        longer = alpha ** (settled + 1)
        passes += longer
        if longer < 1e-6:
            break
        settled += 1
    else:
        # 1 - share without the cancellation of a share near 1.
        passes += longer * alpha**steady / -math.expm1(steady * math.log(alpha))
    return target_s * (1 - alpha) * passes


def never_idle_gain(
    alpha: float, draft_s: float, rtt_s: float, verify_s: Mapping[int, float], most: int = 8
) -> float:
    """Plain time over never-idle time. `verify_s` has the pass of width 1; wider ones, which the
    closed form takes to cost the same, are charged for. Below 1 where they cost more than they
    bring."""
    cost = Costs.of(verify_s)
    target_s = cost(1)
    tokens = target_s / max(never_idle_in_passes(alpha, target_s, draft_s, rtt_s, most), 1e-9)
    if tokens <= 1 or alpha <= 0:
        return 1.0
    width = min(1 + (tokens - 1) / alpha, most + 1)
    low = math.floor(width)
    wide = cost(low) + (width - low) * (cost(low + 1) - cost(low))
    return tokens * target_s / wide


def lead(target_s: float, draft_s: float, rtt_s: float) -> int:
    """How far a drafter that is always right must be ahead so that it never waits: what it drafts
    until a token's verdict is back, with a pass that it just missed."""
    return math.ceil((rtt_s + 2 * target_s) / draft_s)


def best_width(alpha: float, verify_s: Mapping[int, float]) -> int:
    """The width whose pass yields the most tokens a second; width 1 drafts nothing."""
    return max(verify_s, key=lambda width: expected_tokens(alpha, width - 1) / verify_s[width])
