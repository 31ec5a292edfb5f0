"""Where a request may go: zones, upstreams, candidates, and the route a policy chose."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

from gateway.core.chat import Endpoint, Feature, Usage
from gateway.core.lean import lean


class Tier(StrEnum):
    """Where an answer came from; the value of `x-tandem-tier`."""

    LOCAL = "local"
    CLOUD = "cloud"
    SPECULATIVE = "speculative"
    CACHE = "cache"
    NONE = "none"


class Zone(IntEnum):
    """How far a request's content may travel. Smaller is tighter; only tightening is allowed."""

    MACHINE = 0
    ORGANISATION = 1
    PUBLIC = 2

    @property
    def label(self) -> str:
        return _LABELS[self]

    def admits(self, other: Zone) -> bool:
        """Whether a request of this zone may reach an upstream of the other."""
        return other <= self


_LABELS = tuple(zone.name.lower() for zone in Zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens, or per kilowatt-hour; all zeros is a flat rate, paid anyway.

    `up_to`: prompts of more tokens have another price, which is not known here. `as_of` is
    year-month or a day; a stale price is warned about. `listed` says that it is from the list that
    comes with Tandem, not the operator's own.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    up_to: int | None = None
    kwh: float | None = None
    as_of: str = ""
    listed: bool = False

    def of(self, usage: Usage, joules: float | None = None) -> float | None:
        """USD for one answer; cached prompt tokens at their own price if there is one.

        None if it cannot be told: beyond `up_to`, or electricity that nobody measured.
        """
        if self.kwh is not None:
            return None if joules is None else joules / JOULES_PER_KWH * self.kwh
        if self.up_to is not None and usage.prompt_tokens > self.up_to:
            return None
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        micro = (usage.prompt_tokens - cached) * self.input + cached * cached_price
        return (micro + usage.completion_tokens * self.output) / 1e6

    def age_days(self, today: date) -> int | None:
        """How long ago the price was looked up; None if nobody says."""
        return (today - as_of_date(self.as_of)).days if self.as_of else None


JOULES_PER_KWH = 3.6e6

_AS_OF = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?")


def as_of_date(text: str) -> date:
    """The day in "2026-08-14"; for "2026-08" its last one. Raises ValueError."""
    match = _AS_OF.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 12:
        raise ValueError("as_of is a month or a day, like 2026-08 or 2026-08-14")
    year, month = int(match[1]), int(match[2])
    return date(year, month, int(match[3] or monthrange(year, month)[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A backend and the model behind it, as routing sees them. Facts, no connection.

    `context` is in tokens, None if unknown. `prompt_ceiling` is true where a prompt's bytes
    bound its tokens (byte-level vocabularies), so that a short prompt needs no counting.
    `watts` is the configured draw while busy, for the energy estimate. `carries_body` says that
    request fields which we do not read still reach the model's server; elsewhere they are announced
    as ignored. `honours` are the fields that have an effect there, None where nobody knows them
    all; `ignores` are fields that have none. `bits` is what a weight takes in the model's file,
    None where nobody says. `continues`: the kinds of answer that it goes on with once somebody else
    has begun them (`ChatRequest.continues`). `strategy` is how it drafts, "" if it does not.
    `approximate`: what it says need not be what its model would have said by itself (DESIGN 2.5).
    """

    name: str
    kind: str
    tier: Tier
    zone: Zone
    model: str
    revision: str = ""
    context: int | None = None
    features: frozenset[Feature] = frozenset()
    price: Price | None = None
    watts: float | None = None
    created: int = 0
    prompt_ceiling: bool = False
    carries_body: bool = False
    honours: frozenset[str] | None = None
    ignores: frozenset[str] = frozenset()
    bits: float | None = None
    continues: frozenset[Endpoint] = frozenset()
    strategy: str = ""
    approximate: bool = False

    def cost_of(self, usage: Usage, joules: float | None = None) -> float | None:
        """USD for one answer, or None if it is not known: never silently zero.

        The operator's price, else what the upstream itself says, else the list price. A local model
        without a price costs nothing but the electricity that energy counts.
        """
        price = self.price
        if price is not None and not price.listed:
            return price.of(usage, joules)
        if usage.cost_usd is not None:
            return usage.cost_usd
        if price is not None:
            return price.of(usage, joules)
        return 0.0 if self.tier is Tier.LOCAL else None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An upstream as it is right now: a moment of `fleet.snapshot()`.

    `rests_s`: seconds until one that is not healthy may be tried again, as far as anybody knows.
    `probe`: it is not healthy, and still may be asked now if there is no other. `full`: others had
    better be asked, more requests wait for it than it takes well. `wait_s`: what its own queue, or
    the loading of its model, is expected to take before `ttft_s` begins to count; None where only
    its server knows. `gain`: how many
    times faster than its target alone it says its tokens, where it drafts and knows.
    """

    upstream: Upstream
    healthy: bool = True
    in_flight: int = 0
    ttft_s: float | None = None
    rests_s: float = 0.0
    probe: bool = False
    full: bool = False
    gain: float | None = None
    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a candidate was taken out: a word from a closed list, and a sentence for people.

    `rests_s`: for one that is down, seconds until it may be tried again.
    """

    upstream: str
    reason: str
    detail: str
    param: str | None = None
    rests_s: float = 0.0


Facts: TypeAlias = Mapping[str, Any]
"""What rules may ask about a request; the keys are listed in router_policies/facts.py."""


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A policy's answer: upstreams in the order to try them, and why.

    `reason` is one of a closed list (pin, rule, static, learned, sticky, …); `rule` names the rule
    that decided, if one did. `worth`: what each upstream is to the policy that ranked them, as
    quality less what it costs; empty where the order has no measure. `balance` says how the first
    was picked among its equals: `warm` (it knows the prompt's beginning), `load`, or `only` where
    it has none.
    """

    candidates: tuple[Candidate, ...]
    reason: str
    rule: str | None = None
    score: float | None = None
    worth: Mapping[str, float] = field(default_factory=dict)
    balance: str = "only"
    rejected: tuple[Rejection, ...] = field(default=())
