"""What an operator should know about the prices that costs will be counted with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Final

from backends import BACKENDS
from backends.base import Options
from gateway.core.registry import load
from gateway.core.routing import Tier

STALE_DAYS: Final = 90


def price_notes(upstreams: Mapping[str, Options], today: date) -> list[str]:
    """A sentence for each upstream whose price is old, undated, or not known at all.

    A combined upstream has its parts' prices, and a local one none unless it is given.
    """
    notes = []
    for name, options in upstreams.items():
        if load(BACKENDS, options.kind, what="kind").parts(options):
            continue
        price = options.price_or_listed()
        if price is None:
            if options.tier_or_default() is Tier.CLOUD and not options.says_cost():
                notes.append(
                    f"{name}: no price is known; its answers count in tandem_cost_unknown_total"
                )
            continue
        whose = "the list price" if price.listed else "its price"
        age = price.age_days(today)
        if age is not None and age > STALE_DAYS:
            notes.append(
                f"{name}: {whose} is of {price.as_of}, {age} days ago; look it up and set `price:`"
            )
    return notes
