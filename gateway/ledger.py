"""What an answer would have cost elsewhere: all to the cloud, all to this machine. Pure.

The same tokens are taken for both sides, though another model would have counted and said others,
and no cached prompt is assumed; so it is an estimate by nature. Where a side could not have served
(no such upstream, its zone, a feature) or its price is unknown, there is no number: unknown, not 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.core.exchange import ExchangeRecord
from gateway.core.lean import lean
from gateway.core.routing import Tier


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """USD; None where nobody knows. `saved` is all-cloud less what was paid, if both are known."""

    all_cloud: float | None
    all_local: float | None
    saved: float | None


def counterfactual(record: ExchangeRecord) -> Counterfactual | None:
    """Of a request that had a choice; None for one that had none, and for what a cache answered."""
    if len(record.others) < 2 or record.tier in (Tier.CACHE, Tier.NONE):
        return None
    paid = record.cost_usd if record.cost_known else None
    cloud = _cost(record, paid, local=False)
    return Counterfactual(
        all_cloud=cloud,
        all_local=_cost(record, paid, local=True),
        saved=None if cloud is None or paid is None else cloud - paid,
    )


def _cost(record: ExchangeRecord, paid: float | None, *, local: bool) -> float | None:
    """Of the first upstream of that side that the request could have gone to, in its order."""
    for side in record.others:
        if (side.tier is Tier.LOCAL) is local:
            if side.name == record.upstream:
                return paid
            return side.cost_of(replace(record.usage, cached_tokens=0, cost_usd=None))
    return None
