"""The model names that exist without being configured: auto, local, cloud, tandem and their kin."""

from __future__ import annotations

from collections.abc import Mapping

from backends.base import Options
from gateway.core.routing import Tier


def default_aliases(upstreams: Mapping[str, Options]) -> dict[str, tuple[str, ...]]:
    """The model names that exist without being configured; those that would be empty do not.

    Static orders for now. `auto` has the local tier first, then the speculative, then the cloud.
    """
    tiers: dict[Tier, list[str]] = {Tier.LOCAL: [], Tier.SPECULATIVE: [], Tier.CLOUD: []}
    for name, options in upstreams.items():
        if options.approximate:
            continue  # only who names one gets one
        tiers[_tier(options)].append(name)
    local, tandem, cloud = tiers[Tier.LOCAL], tiers[Tier.SPECULATIVE], tiers[Tier.CLOUD]

    def price(name: str) -> float:
        """Unknown is dearest: no remote model is assumed to be free."""
        known = upstreams[name].price_or_listed()
        return known.input + known.output if known else float("inf")

    orders = {
        "auto": (*local, *tandem, *cloud),
        "auto:fast": (*local, *tandem, *cloud),
        "auto:cheap": (*local, *sorted((*tandem, *cloud), key=price)),
        "auto:quality": (*cloud, *tandem, *local),
        "local": tuple(local),
        "cloud": tuple(cloud),
        "tandem": tuple(tandem),
    }
    return {name: order for name, order in orders.items() if order}


def _tier(options: Options) -> Tier:
    return Tier.SPECULATIVE if options.kind == "speculative" else options.tier_or_default()
