"""The hot path: admit → classify → filter → route → cache → open → relay → record.

`Pipeline.answer` is one request's whole way, top to bottom. It sees contracts only: which backends,
policies and cache stand behind them was chosen in app.py. How a route is found is plan.py's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from gateway.admission import Admission, Permit
from gateway.cache.base import Cache, Entry
from gateway.cache.key import Directives, cache_key, directives
from gateway.core.chat import Priority, Usage
from gateway.core.errors import LocalUnavailable, TandemError, Unavailable, UpstreamBroken
from gateway.core.events import (
    Answered,
    Collector,
    Event,
    Finish,
    SpeculationReport,
    is_content,
    replay,
)
from gateway.core.exchange import (
    Attempt,
    Call,
    Events,
    Exchange,
    ExchangeRecord,
    RecordDraft,
    Reply,
)
from gateway.core.routing import Tier, Upstream, Zone
from gateway.fleet import Fleet, Trial
from gateway.parameters import ignored_fields
from gateway.plan import Plan, Planner
from gateway.relay import Relay, Replay
from gateway.resilience.retry_budget import MOST_ATTEMPTS
from gateway.settle import Energy, Tally, note_end, note_outcome, result_of

HELD_EVENTS = 64
HELD_BYTES = 256 * 1024
KEPT_TEXT = 1024 * 1024
"""Characters of one answer that are collected for the cache; longer answers are not kept."""

STORABLE_ENDS = frozenset({"stop", "length", "tool_calls"})

Heard = Callable[[Exchange, Plan, Collector | None, ExchangeRecord], None]
"""Hears of every answer that ended, and of what was collected of it; None if it was a kept one."""


@dataclass(slots=True, kw_only=True)
class Opened:
    """An upstream's stream, and what it said until it committed."""

    upstream: Upstream
    trial: Trial
    started: float
    stream: AsyncGenerator[Event, None]
    ttft_s: float = 0.0
    held: list[Event] = field(default_factory=list)

    async def until_content(self) -> None:
        """Hold events up to and with the first content. Raises UpstreamBroken if none comes."""
        size = 0
        async for event in self.stream:
            self.held.append(event)
            if is_content(event):
                return
            size += len(event.frame or b"")
            if len(self.held) > HELD_EVENTS or size > HELD_BYTES:
                raise UpstreamBroken(f"{self.upstream.name!r} sent frames but no content.")
        raise UpstreamBroken(f"{self.upstream.name!r} ended before it said anything.")


class Pipeline:
    """Answers exchanges. Lives as long as its configuration; holds no request's state."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        planner: Planner,
        admission: Admission,
        cache: Cache | None,
        record: Callable[[ExchangeRecord], None],
        energy: Energy,
        clock: Callable[[], float],
        wall: Callable[[], float],
        decided: Callable[[Exchange, Plan], None] | None = None,
        answered: Heard | None = None,
    ) -> None:
        self.fleet = fleet
        self.planner = planner
        self.admission = admission
        self._cache = cache
        self._record = record
        self._energy = energy
        self._clock = clock
        self._wall = wall
        self._decided = decided
        self._answered = answered

    async def answer(self, exchange: Exchange) -> Reply:
        """Take one request as far as its first content, and hand the rest back as events.

        Raises a TandemError if nothing can answer. Whoever gets the Reply closes its events, and
        that ends the upstream's work, frees the permit and writes the record, exactly once.
        """
        draft = self._draft(exchange)
        permit: Permit | None = None
        try:
            local, priority = exchange.caller.zone is Zone.MACHINE, exchange.priority
            permit = self.admission.enter(priority, local=local)
            plan = await self.planner.plan(exchange)
            self._note_plan(draft, plan, exchange)
            wish = directives(exchange.headers)
            key = self._key(exchange, plan, plan.route.candidates[0].upstream)
            kept = await self._lookup(key, wish, draft) if key is not None and wish.read else None
            if kept is None and wish.only_if_cached:
                raise Unavailable(
                    "No kept answer, and only-if-cached was asked.", code="not_cached"
                )
            if kept is not None:
                self._note_kept(kept, draft)
                # It was given by that upstream, which has not read these fields then either.
                asked = plan.route.candidates[0].upstream
                draft.ignored = ignored_fields(exchange.request, asked)
                if asked.approximate:
                    draft.approximate, draft.strategy = True, asked.strategy
                events: Events = self._replay(kept, draft, exchange, plan, permit)
            else:
                plan.taken()  # before it is asked: many at once must see one another
                opened = await self._open(exchange, plan, draft, priority)
                keep = wish.write and key is not None
                events = self._relay(exchange, plan, opened, keep, draft, permit)
        except BaseException as caught:
            error = self.admission.verdict(caught)
            self._close(draft, exchange, permit, error)
            if error is caught:
                raise
            raise error from None
        return Reply(
            route=plan.route,
            tier=draft.tier,
            upstream=draft.upstream,
            events=events,
            record=draft,
        )

    async def _lookup(self, key: str, wish: Directives, draft: RecordDraft) -> Entry | None:
        """A kept answer of the upstream that would be asked first."""
        assert self._cache is not None  # there is a key
        entry = await self._cache.get(key)
        if entry is not None and wish.accepts(self._wall() - entry.stored_at):
            draft.cache = "hit"
            return entry
        draft.cache = "miss"
        return None

    async def _open(
        self, exchange: Exchange, plan: Plan, draft: RecordDraft, priority: Priority
    ) -> Opened:
        """Open upstreams in the route's order until one commits with content.

        Frames before the first content are held, so that a client never sees two beginnings.
        """
        call = Call(
            id=exchange.id,
            tenant=exchange.caller.tenant,
            zone=plan.zone,
            deadline=exchange.deadline,
            priority=priority,
        )
        last: TandemError | None = None
        outgrown: Upstream | None = None  # who refused the prompt as too long
        for candidate in plan.route.candidates:
            upstream = candidate.upstream
            if outgrown is not None and not _is_bigger(upstream, outgrown):
                continue
            # The filters did this; a policy of somebody else's making must not undo it. The
            # backend's own client looks a third time.
            if not plan.zone.admits(upstream.zone):
                raise LocalUnavailable("A policy chose an upstream outside the request's zone.")
            if len(draft.attempts) == MOST_ATTEMPTS:
                break
            retry = bool(draft.attempts)
            trial = plan.reach.begin(upstream.name, retry=retry, probe=candidate.probe)
            if trial is None:
                continue
            stream = plan.reach.backend(upstream.name).stream(exchange.request, call)
            opened = Opened(upstream=upstream, trial=trial, started=self._clock(), stream=stream)
            try:
                await opened.until_content()
            except BaseException as error:
                await self._abandon(opened, draft, error)
                if not isinstance(error, TandemError):
                    raise
                if error.code == "context_length_exceeded" and self._may_outgrow(exchange):
                    outgrown = upstream
                elif not error.retryable:
                    raise
                last = error
                continue
            self._note_upstream(exchange, draft, opened, fell_back=last is not None)
            if plan.conversation is not None:
                plan.conversation.served_by(upstream.name)
            self.planner.balancer.begun(plan.balanced, upstream.name)
            return opened
        raise last or Unavailable(
            "Every upstream for this request is resting after failures.",
            code="no_healthy_upstream",
            retry_after=1,
        )

    def _may_outgrow(self, exchange: Exchange) -> bool:
        """Whether a prompt that is too long for one upstream may go to a bigger one."""
        alias = self.planner.rulebook.aliases.get(exchange.request.model)
        return alias is not None and alias.bigger_context

    def _relay(
        self,
        exchange: Exchange,
        plan: Plan,
        opened: Opened,
        keep: bool,
        draft: RecordDraft,
        permit: Permit,
    ) -> Relay:
        """The answer on its way, and what is done when that ends, however it ends."""
        collector, tally = Collector(limit=KEPT_TEXT), Tally(self._clock)

        def settle(error: BaseException | None) -> None:
            seconds = self._end_attempt(opened, draft, error)
            note_outcome(
                draft,
                request=exchange.request,
                upstream=opened.upstream,
                tally=tally,
                collector=collector,
                seconds=seconds,
                energy=self._energy,
            )
            if not draft.continued:
                self.planner.balancer.ended(
                    plan.balanced, opened.upstream.name, draft.usage, opened.ttft_s
                )
            if draft.cascade is not None and not (draft.cascade["escalated"] or draft.continued):
                plan.kept()
            plan.paid(draft.cost_usd)
            record = self._close(draft, exchange, permit, error)
            if self._answered is not None:
                self._answered(exchange, plan, collector, record)

        async def store() -> None:
            # Two upstreams' answer is not what either would have said: nobody else shall get it.
            if keep and not collector.overflowed and not draft.continued:
                await self._keep(exchange, plan, opened.upstream, collector, draft)

        return Relay(
            opened.stream,
            opened.held,
            upstream=opened.upstream.name,
            tally=tally,
            collector=collector,
            verdict=self.admission.verdict,
            settle=settle,
            keep=store,
        )

    def _replay(
        self, entry: Entry, draft: RecordDraft, exchange: Exchange, plan: Plan, permit: Permit
    ) -> Replay:
        """A kept answer on its way."""

        def note(event: Event) -> None:
            if draft.ttft_s is None and is_content(event):
                draft.ttft_s = self._clock() - exchange.arrived
            if isinstance(event, Finish):
                draft.finish_reason = event.reason

        def settle(error: BaseException | None) -> None:
            record = self._close(draft, exchange, permit, error)
            if self._answered is not None:
                self._answered(exchange, plan, None, record)

        return Replay(replay(entry.completion), note=note, settle=settle)

    async def _keep(
        self,
        exchange: Exchange,
        plan: Plan,
        upstream: Upstream,
        collector: Collector,
        draft: RecordDraft,
    ) -> None:
        """Keep an answer that ended well, under the upstream that gave it."""
        key = self._key(exchange, plan, upstream)
        if self._cache is None or key is None:
            return
        completion = collector.completion()
        ends = {choice.finish_reason for choice in completion.choices}
        whole = bool(ends) and ends <= STORABLE_ENDS
        if not (whole or completion.vectors):
            return
        entry = Entry(
            completion=replace(completion, usage=completion.usage or draft.usage),
            upstream=upstream.name,
            model=upstream.model,
            stored_at=self._wall(),
            cost_usd=draft.cost_usd,
        )
        await self._cache.put(key, entry)

    def _key(self, exchange: Exchange, plan: Plan, upstream: Upstream) -> str | None:
        """Where the answer would be kept. None, whichever upstream's, for what is not kept."""
        if self._cache is None:
            return None
        return cache_key(
            exchange.request,
            tenant=exchange.caller.tenant,
            zone=plan.zone,
            epoch=self.planner.rulebook.epoch,
            upstream=upstream,
        )

    async def _abandon(self, opened: Opened, draft: RecordDraft, error: BaseException) -> None:
        """Give an upstream up before it said anything."""
        self._end_attempt(opened, draft, error)
        await opened.stream.aclose()

    def _end_attempt(
        self, opened: Opened, draft: RecordDraft, error: BaseException | None
    ) -> float:
        seconds = self._clock() - opened.started
        opened.trial.end(error)
        draft.attempts += (
            Attempt(upstream=opened.upstream.name, result=result_of(error), seconds=seconds),
        )
        return seconds

    def _draft(self, exchange: Exchange) -> RecordDraft:
        request, caller = exchange.request, exchange.caller
        return RecordDraft(
            id=exchange.id,
            endpoint=request.endpoint.value,
            model=request.model,
            stream=request.stream,
            tenant=caller.tenant,
            key_id=caller.key_id,
            zone=caller.zone.label,
            created=self._wall(),
        )

    def _note_plan(self, draft: RecordDraft, plan: Plan, exchange: Exchange) -> None:
        route = plan.route
        draft.reason, draft.rule, draft.score = route.reason, route.rule, route.score
        draft.balance = route.balance
        draft.decide_s = self._clock() - exchange.arrived
        if self._decided is not None:
            self._decided(exchange, plan)
        if len(route.candidates) > 1:
            draft.others = tuple([candidate.upstream for candidate in route.candidates])
        if exchange.deadline is None and plan.limit_s is not None:
            exchange.deadline = exchange.arrived + plan.limit_s

    def _note_upstream(
        self, exchange: Exchange, draft: RecordDraft, opened: Opened, *, fell_back: bool
    ) -> None:
        upstream, now = opened.upstream, self._clock()
        opened.ttft_s = now - opened.started
        opened.trial.first_content(opened.ttft_s)
        draft.ttft_s = now - exchange.arrived
        draft.upstream = upstream.name
        answering, strategy = upstream, None
        for event in opened.held:
            if isinstance(event, Answered):
                answering = event.upstream
            elif isinstance(event, SpeculationReport):
                strategy = event.strategy
        draft.upstream_model, draft.tier = answering.model, answering.tier
        draft.approximate = answering.approximate
        draft.strategy = answering.strategy if strategy is None else strategy
        draft.ignored = ignored_fields(exchange.request, upstream)
        if fell_back:
            draft.reason = "fallback"

    def _note_kept(self, entry: Entry, draft: RecordDraft) -> None:
        draft.tier, draft.upstream, draft.upstream_model = Tier.CACHE, entry.upstream, entry.model
        draft.usage = entry.completion.usage or Usage()
        draft.cost_usd, draft.cost_known, draft.avoided_usd = 0.0, True, entry.cost_usd

    def _close(
        self,
        draft: RecordDraft,
        exchange: Exchange,
        permit: Permit | None,
        error: BaseException | None,
    ) -> ExchangeRecord:
        """Free the permit and write the record: the last thing that happens to a request."""
        if permit is not None:
            permit.release()
        draft.duration_s = self._clock() - exchange.arrived
        draft.found, draft.observed = exchange.found, exchange.observed
        if exchange.zone is not None:
            draft.zone = exchange.zone.label
        note_end(draft, error)
        record = draft.freeze()
        self._record(record)
        return record


def _is_bigger(upstream: Upstream, outgrown: Upstream) -> bool:
    """Whether it is known to have more context; the filters have seen that the prompt fits."""
    if upstream.context is None:
        return False
    return outgrown.context is None or upstream.context > outgrown.context
