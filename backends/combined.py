"""What is true of several upstreams that answer as one: their facts, their counts, their health."""

from __future__ import annotations

from collections.abc import Collection

from backends.base import Backend, Health, Options
from gateway.core.chat import ChatRequest
from gateway.core.routing import Price, Tier, Upstream, Zone


def combined(name: str, options: Options, backends: Collection[Backend]) -> Upstream:
    """What all of them can do, in the widest zone of theirs: any may see the prompt."""
    parts = [part.upstream for part in backends]
    known = [part.honours for part in parts if part.honours is not None]
    contexts = [part.context for part in parts if part.context is not None]
    zone = options.zone if "zone" in options.model_fields_set else Zone.MACHINE
    return Upstream(
        name=name,
        kind=options.kind,
        tier=Tier.LOCAL if all(part.tier is Tier.LOCAL for part in parts) else Tier.CLOUD,
        zone=max(zone, *(part.zone for part in parts)),
        model=parts[0].model,
        revision="+".join(f"{part.model}@{part.revision}" for part in parts),
        context=options.context or min(contexts, default=None),
        features=frozenset.intersection(*(part.features for part in parts)),
        price=options.price_or_listed(),
        watts=options.watts,
        carries_body=all(part.carries_body for part in parts),
        honours=frozenset.intersection(*known) if known else None,
        ignores=frozenset[str]().union(*(part.ignores for part in parts)),
        approximate=any(part.approximate for part in parts),
    )


def dearest(parts: Collection[Upstream]) -> Price | None:
    """The worst that an answer can cost, whoever of them gives it; None if nobody can say.

    Electricity and flat rates cost nothing for one answer more. A price that ends at a prompt's
    length is no bound.
    """
    prices = [part.price for part in parts]
    unknown = (
        price is None and part.tier is not Tier.LOCAL
        for part, price in zip(parts, prices, strict=True)
    )
    known = [price for price in prices if price is not None]
    if any(unknown) or not known or any(price.up_to is not None for price in known):
        return None
    return Price(
        input=max(price.input for price in known),
        output=max(price.output for price in known),
        listed=any(price.listed for price in known),
    )


async def most_tokens(backends: Collection[Backend], request: ChatRequest) -> int | None:
    """The most that any of them counts: it has to fit wherever it goes."""
    counts = [await part.count(request) for part in backends]
    return max((count for count in counts if count is not None), default=None)


async def any_health(backends: Collection[Backend]) -> Health:
    looks = [await part.health() for part in backends]
    if any(look.ok for look in looks):
        return Health(ok=True)
    return Health(ok=False, detail="; ".join(look.detail for look in looks))
