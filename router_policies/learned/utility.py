"""What each candidate is worth for one request: predicted quality, less its price, wait and energy.

    utility = quality - price · USD - latency · seconds - energy · kJ

Quality is a chance of a good answer, 0 to 1. A local upstream gets the weak model's chance, all
others the strong one's, each moved by the upstream's own ability where it was probed. A cascade
drafts locally and asks the strong model when its check says so: most of the gain for a part of the
price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from gateway.core.chat import Usage
from gateway.core.lean import lean
from gateway.core.routing import Candidate, Facts, Tier
from router_policies.base import Weights

ANSWER_TOKENS = 256
"""What an answer is taken to be long, or the request's limit if that is less."""
LOCAL_TTFT_S, REMOTE_TTFT_S = 0.3, 0.8
"""Until an upstream has been measured."""
TOKENS_PER_S = 40.0
DEAR = 30.0
"""USD per million tokens, for an upstream whose price nobody knows: unknown is dear."""
CAUGHT = 0.8
"""Of the answers that a cascade should hand on, so many it does (agreement of drafts, GSM8K)."""
EDGE = 0.01
"""Chances are kept this far from 0 and 1, so that an ability can still move them."""

PRESETS: Mapping[str, Weights] = {
    "balanced": Weights(),
    "cheap": Weights(price=200.0, latency=0.0, energy=0.02),
    "fast": Weights(price=25.0, latency=0.15, energy=0.0),
    "quality": Weights(price=1.0, latency=0.0, energy=0.0),
}
"""What a cent costs in quality: balanced 0.25, cheap 2, quality 0.01; a second: fast 0.15."""


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """A candidate's utility and what it is made of: quality - price - latency - energy.

    `usd` is what is expected to be paid (a cascade's strong upstream is asked only sometimes), None
    if nobody knows the price; then `price` is that of a dear one.
    """

    utility: float
    quality: float
    price: float
    latency: float
    energy: float
    usd: float | None
    seconds: float
    kilojoules: float


def worth(
    candidate: Candidate, facts: Facts, weights: Weights, abilities: Mapping[str, float]
) -> Worth:
    """What sending the request to this candidate is worth. `facts` must have the router's."""
    upstream = candidate.upstream
    weak, strong = facts["router.weak_ok"], facts["router.strong_ok"]
    tokens = min(int(facts.get("max_tokens", ANSWER_TOKENS)), ANSWER_TOKENS)
    usage = Usage(prompt_tokens=int(facts.get("prompt_tokens", 0)), completion_tokens=tokens)
    usd = upstream.cost_of(usage)
    local = upstream.tier is Tier.LOCAL
    ttft = candidate.ttft_s
    if ttft is None:
        ttft = LOCAL_TTFT_S if local else REMOTE_TTFT_S
    per_s = TOKENS_PER_S * (candidate.gain or 1.0)
    wait = candidate.wait_s
    if wait is None:  # a guess: a local server computes for all that are there
        wait = ttft * candidate.in_flight * local
    seconds = wait + ttft + tokens / per_s
    if upstream.kind == "cascade":
        gain = CAUGHT * max(0.0, strong - weak)
        quality = weak + gain
        asked = 1 - weak
    else:
        asked = 1.0
        quality = weak if local else strong
    quality = moved(quality, abilities.get(upstream.name, 0.0))
    if usd is None:
        price = weights.price * asked * usage.total_tokens * DEAR / 1e6
    else:
        usd *= asked
        price = weights.price * usd
    kilojoules = (upstream.watts or 0.0) * seconds / 1000
    latency, energy = weights.latency * seconds, weights.energy * kilojoules
    return Worth(
        utility=quality - price - latency - energy,
        quality=quality,
        price=price,
        latency=latency,
        energy=energy,
        usd=usd,
        seconds=seconds,
        kilojoules=kilojoules,
    )


def moved(chance: float, ability: float) -> float:
    """A chance after a shift of its log-odds."""
    if not ability:
        return chance
    chance = min(1 - EDGE, max(EDGE, chance))
    return 1 / (1 + exp(-(log(chance / (1 - chance)) + ability)))
