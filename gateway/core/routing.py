"""Where a request may go: zones, upstreams, candidates, and the route a policy chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

from gateway.core.chat import Feature, Usage


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
        return self.name.lower()

    def admits(self, other: Zone) -> bool:
        """Whether a request of this zone may reach an upstream of the other."""
        return other <= self


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens. `as_of` is year-month; a stale price is warned about."""

    input: float
    output: float
    cached_input: float | None = None
    as_of: str = ""

    def of(self, usage: Usage) -> float:
        """USD for one answer; cached prompt tokens at their own price if there is one."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        micro = (usage.prompt_tokens - cached) * self.input + cached * cached_price
        return (micro + usage.completion_tokens * self.output) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A backend and the model behind it, as routing sees them. Facts, no connection.

    `context` is in tokens, None if unknown. `prompt_ceiling` is true where a prompt's bytes
    bound its tokens (byte-level vocabularies), so that a short prompt needs no counting.
    `watts` is the configured draw while busy, for the energy estimate. `carries_body` says that
    request fields which we do not read still reach the model's server; elsewhere they are announced
    as ignored. `bits` is what a weight takes in the model's file, None where nobody says.
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
    bits: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An upstream as it is right now: a moment of `fleet.snapshot()`.

    `rests_s`: seconds until one that is not healthy may be tried again, as far as anybody knows.
    `probe`: it is not healthy, and still may be asked now if there is no other.
    """

    upstream: Upstream
    healthy: bool = True
    in_flight: int = 0
    ttft_s: float | None = None
    rests_s: float = 0.0
    probe: bool = False


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A policy's answer: upstreams in the order to try them, and why.

    `reason` is one of a closed list (pin, rule, static, learned, sticky, …); `rule` names the rule
    that decided, if one did.
    """

    candidates: tuple[Candidate, ...]
    reason: str
    rule: str | None = None
    score: float | None = None
    rejected: tuple[Rejection, ...] = field(default=())
