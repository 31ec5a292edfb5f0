"""Classify → filter → route: where a request would go, and all that was considered on the way.

Live requests and `tandem route explain` take this same path; nothing here has an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.balance import Groups
from gateway.balancer import Balanced, Balancer
from gateway.conversations import Conversation, Conversations
from gateway.core.chat import ChatRequest
from gateway.core.errors import TandemError, Unavailable
from gateway.core.exchange import Exchange
from gateway.core.lean import lean
from gateway.core.routing import Candidate, Facts, Rejection, Route, Zone
from gateway.deadlines import client_patience
from gateway.filters import (
    admit,
    ask_count,
    last_hope,
    min_bits,
    refusal,
    wants_exact,
)
from gateway.fleet import Fleet, Reach
from gateway.names import resolve
from gateway.parameters import strict as wants_strict
from gateway.privacy import NOTHING, Detector, Findings, zone_of
from gateway.spill import spilled
from gateway.tightened import Tightened
from router_policies.base import Assessor, Policy, Rule
from router_policies.facts import STICKY
from router_policies.facts import facts as facts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A model name that stands for several upstreams, and how to choose among them.

    `groups` are those that stand equal, with their weights; None: who is the same in all that
    matters (balance.py). `bigger_context`: a prompt that an upstream refused as too long goes to
    the next one with more context. `assessor` is there if the policy goes by predictions, and
    `terms`, which tells what a candidate is worth to it; `conversations` if it wants to know who
    answered last.
    """

    candidates: tuple[str, ...]
    policy: Policy
    assessor: Assessor | None = None
    terms: Callable[[Candidate, Facts], Mapping[str, float | None]] | None = None
    deadline_s: float | None = None
    min_bits: float | None = None
    conversations: Conversations | None = None
    groups: Groups | None = None
    bigger_context: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """What the configuration says about routing. Immutable: a reload makes a new one.

    `epoch` changes with it, so that no answer kept under other rules is served. `headers` are the
    request headers that rules look at; `locality`, `min_bits`, `exact` and `reach` are the rules'
    say before routing; `led` is what each `use:` rule leads to, by its name. `rules` are all of
    them, for explanations; `observed` names those that only look on, if there are any.
    """

    aliases: Mapping[str, Alias]
    pin: Policy
    locality: Callable[[Facts], Zone | None]
    reach: Callable[[str | None, Facts, tuple[str, ...]], tuple[str, ...]]
    min_bits: Callable[[Facts], float | None] = lambda facts: None
    exact: Callable[[Facts], bool] = lambda facts: False
    led: Mapping[str, str] = field(default_factory=dict)
    headers: frozenset[str] = frozenset()
    default_zone: Zone = Zone.PUBLIC
    epoch: str = ""
    deadline_s: float | None = None
    strict_parameters: bool = False
    detector: Detector | None = None
    tightened: Tightened | None = None
    rules: tuple[Rule, ...] = ()
    observed: Callable[[Facts], tuple[str, ...]] | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a request would go, and all that was considered on the way.

    `reach` holds the upstreams inside its zone: the others cannot be opened from here. `limit_s` is
    how long the request may take in all, None: as long as it takes.
    """

    zone: Zone
    reach: Reach
    facts: Facts
    route: Route
    counted: Mapping[str, int]
    limit_s: float | None = None
    balanced: Balanced | None = None
    conversation: Conversation | None = None
    assessor: Assessor | None = None

    def taken(self) -> None:
        """A live request takes this plan's route. Neither a dry run says so nor a kept answer, for
        which nobody was asked.
        """
        if self.assessor is not None:
            self.assessor.note(self.facts, self.route)

    def kept(self) -> None:
        """A cascade answered it with its draft."""
        if self.assessor is not None:
            self.assessor.kept(self.route)

    def paid(self, usd: float | None) -> None:
        """Its answer cost so much; None where nobody knows."""
        if self.assessor is not None and usd is not None:
            self.assessor.spent(usd)


@dataclass(slots=True, kw_only=True)
class Trace:
    """What a dry run wants to know besides. Giving one to the planner makes it one: then it leaves
    nothing behind anywhere.
    """

    zone: Zone = Zone.MACHINE
    zone_by_rule: Zone | None = None
    zone_before: Zone | None = None
    found: Findings = NOTHING
    facts: Facts = field(default_factory=dict)
    alias: str | None = None
    listed: tuple[str, ...] = ()
    considered: tuple[Candidate, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


class Planner:
    """Plans for one configuration over one fleet. Holds no request's state."""

    def __init__(self, fleet: Fleet, rulebook: Rulebook, balancer: Balancer | None = None) -> None:
        self.rulebook = rulebook
        self.balancer = balancer or Balancer()
        self._fleet = fleet

    async def plan(self, exchange: Exchange, trace: Trace | None = None) -> Plan:
        """Classify, filter and route. No effect on anything but what is remembered of privacy.

        The zone is settled before any candidate is looked at, and what lies outside it is gone
        before a policy is asked: a pin, a rule or a score cannot bring it back (DESIGN 2.2, 2.3).
        """
        request, caller, book = exchange.request, exchange.caller, self.rulebook
        facts = facts_of(request, caller, exchange.headers, book.headers)
        if book.observed is not None:
            exchange.observed = book.observed(facts)
        by_rule = book.locality(facts)
        zone = zone_of(caller, exchange.headers, book.default_zone, by_rule)
        found = NOTHING
        if book.detector is not None and zone is not Zone.MACHINE:
            found = await book.detector.look(request, keep=trace is None)
            zone, exchange.found = min(zone, found.zone), found.kinds
        before = None
        if book.tightened is not None:
            before = book.tightened.zone(request, caller)
            zone = zone if before is None else min(zone, before)
            if trace is None and zone < min(caller.zone, book.default_zone):
                book.tightened.note(request, caller, zone)
        exchange.zone = zone
        alias, names = resolve(request.model, book.aliases, self._fleet.names, caller)
        candidates = self._fleet.snapshot(book.reach(alias, facts, names))
        demands = [min_bits(exchange.headers), book.min_bits(facts)]
        if alias is not None:
            demands.append(book.aliases[alias].min_bits)
        wished = max((bits for bits in demands if bits is not None), default=None)
        counted = await self._count(request, candidates, zone)
        strict = wants_strict(exchange.headers, book.strict_parameters)
        exact = wants_exact(exchange.headers) or book.exact(facts)
        kept, rejected = admit(
            request, candidates, zone, caller, counted, wished, strict=strict, exact=exact
        )
        if not kept and (hope := last_hope(candidates, rejected)):
            kept, _ = admit(
                request, hope, zone, caller, counted, wished, strict=strict, exact=exact
            )
        if trace is not None:
            trace.zone, trace.zone_by_rule, trace.found = zone, by_rule, found
            trace.zone_before = before
            trace.facts, trace.alias, trace.listed = facts, alias, names
            trace.considered, trace.rejected, trace.counted = candidates, rejected, counted
        if not kept:
            raise refusal(request, rejected, exchange.found)
        policy = book.pin if alias is None else book.aliases[alias].policy
        assessor = None if alias is None else book.aliases[alias].assessor
        if assessor is not None and len(kept) > 1:
            facts = {**facts, **assessor.assess(request)}
        conversation = None
        if alias is not None and (known := book.aliases[alias].conversations) is not None:
            conversation = known.of(request, caller.tenant, zone)
            if conversation is not None and (last := conversation.last) is not None:
                facts = {**facts, STICKY: last}
        route = policy.choose(facts, kept)
        if route is None:
            raise Unavailable("No policy made a choice.", code="no_route")
        if rejected:
            route = replace(route, rejected=(*rejected, *route.rejected))
        balanced = None
        if alias is not None and len(route.candidates) > 1:
            route, balanced = self._balance(route, exchange, zone, alias)
        limit_s = self._limit_s(exchange, alias)
        route = spilled(route, limit_s, capped=bool(facts.get("router.capped")))
        return Plan(
            zone=zone,
            reach=self._fleet.within(zone),
            facts=facts,
            route=route,
            counted=counted,
            limit_s=limit_s,
            conversation=conversation,
            balanced=balanced,
            assessor=assessor,
        )

    def _balance(
        self, route: Route, exchange: Exchange, zone: Zone, alias: str
    ) -> tuple[Route, Balanced | None]:
        """Equals in their best order. A rule that leads to one upstream has the first place."""
        book = self.rulebook
        led = alias if route.rule is None else book.led.get(route.rule, alias)
        return self.balancer.order(
            route,
            exchange.request,
            tenant=exchange.caller.tenant,
            zone=zone,
            groups=book.aliases[led if led in book.aliases else alias].groups,
            begin=0 if led in book.aliases and route.reason != "sticky" else 1,
        )

    def _limit_s(self, exchange: Exchange, alias: str | None) -> float | None:
        """The shorter of what the configuration allows and what the client waits for."""
        book = self.rulebook
        limit = (book.aliases[alias].deadline_s if alias else None) or book.deadline_s
        patience = client_patience(exchange.headers, stream=exchange.request.stream)
        if limit is None or patience is None:
            return patience if limit is None else limit
        return min(limit, patience)

    async def _count(
        self, request: ChatRequest, candidates: tuple[Candidate, ...], zone: Zone
    ) -> dict[str, int]:
        """Prompt tokens, by upstream, for those whose context might be too small."""
        counted: dict[str, int] = {}
        reach = self._fleet.within(zone)
        for candidate in candidates:
            if not ask_count(request, candidate, zone):
                continue
            name = candidate.upstream.name
            try:
                tokens = await reach.backend(name).count(request)
            except TandemError:
                continue  # it cannot tell; if it is chosen all the same, its answer will
            if tokens is not None:
                counted[name] = tokens
        return counted
