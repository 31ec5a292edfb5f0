"""The contract of a routing policy: facts and candidates in, a Route out.

To add a policy: one module with a class that has these members, one line in `POLICIES`. A policy is
pure: no I/O, no log, no clock, no state between calls. Whatever it must know arrives as a fact
(router_policies/facts.py lists them all). It ranks what it is given and can bring nothing back:
zones, abilities, context and health have removed candidates before it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from gateway.core.chat import ChatRequest
from gateway.core.routing import Candidate, Facts, Route, Zone


class Condition(Protocol):
    """A compiled `when:`. Frozen, and never raises, whatever the facts hold."""

    def matches(self, facts: Facts) -> bool:
        """Whether the condition holds."""

    def names(self) -> frozenset[str]:
        """The facts that it looks at."""


class Mode(StrEnum):
    """What a matching rule's say on routing is worth."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    """Nothing: it is recorded that it would have matched."""
    BYPASS_LEARNING = "bypass_learning"
    """No policy behind the rules is asked: the rule's upstreams or the alias's own order stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of `rules:`: `use`, `locality`, `min_bits`, `exact`, or it bypasses learning.

    `use` is the name of an upstream or an alias; with `fallback` the request's other candidates
    stay behind it. `locality` is the widest zone that a matching request may reach, `min_bits` the
    fewest bits a weight that a model may have to serve it; `exact` keeps it from approximate modes.
    """

    name: str
    when: Condition
    use: str | None = None
    fallback: bool = True
    locality: Zone | None = None
    min_bits: float | None = None
    exact: bool = False
    mode: Mode = Mode.ENFORCE

    @property
    def decides(self) -> bool:
        """Whether it ends the search for a rule once it matches."""
        if self.mode is Mode.OBSERVE:
            return False
        return self.use is not None or self.mode is Mode.BYPASS_LEARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a US dollar, a second and a kilojoule cost in quality, which is a chance from 0 to 1."""

    price: float = 25.0
    latency: float = 0.01
    energy: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every policy is built with, as `Class(settings)`. `aliases`: alias → upstream names.

    `weights` are those of the alias that the policy is built for; `abilities` says how much better
    an upstream is than others of its tier, as a shift of log-odds. Prompts newer than
    `novelty_limit` are nobody's business to predict. Where a share is kept, a prompt up to `unsure`
    from the cut, in rank, goes to a cascade first, if there is one.
    """

    rules: tuple[Rule, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Weights = Weights()
    abilities: Mapping[str, float] = field(default_factory=dict)
    novelty_limit: float = 0.8
    unsure: float = 0.1


class Assessor(Protocol):
    """What is predicted of a request, for policies that go by predictions. Holds their state."""

    def assess(self, request: ChatRequest) -> Facts:
        """Facts of `facts.ROUTER_FACTS`; none where nothing can be said. Changes nothing."""

    def explain(self, request: ChatRequest) -> Mapping[str, float]:
        """What gave how much to the score that `assess` says; adds up to it. Changes nothing."""

    def note(self, facts: Facts, route: Route) -> None:
        """A request with these facts took this route."""

    def kept(self, route: Route) -> None:
        """It began with a cascade, and the draft was kept: nothing was sent to a stronger one."""

    def spent(self, usd: float) -> None:
        """An answer cost so much."""

    def state(self) -> Mapping[str, Any]:
        """For an operator's eyes, as JSON may hold it."""


@runtime_checkable
class Adjuster(Protocol):
    """A policy that has a say on the route of one before it. As pure as the others."""

    def adjust(self, facts: Facts, route: Route) -> Route:
        """The route as it shall be: the same candidates, perhaps in another order."""


@runtime_checkable
class Policy(Protocol):
    """One way to choose."""

    name: str

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        """Order the candidates, best first, or return None to leave it to the next policy.

        `candidates` is never empty and keeps the alias's own order. The Route holds a subset of
        them and at least one.
        """
