"""Speculation as a Backend: a local model drafts, a companion's target answers.

The answer is the target's own, token for token (DESIGN 2.5); what drafting adds is speed, and the
controller ends it where it does not. Where no session comes about, or where it could bring nothing
and the target's passes are so short that it would cost, the same request goes to the target over
plain HTTP, before the client has seen a byte.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar, cast

from backends.base import Backend, Health, Options, Resources, part_of
from backends.clocks import Clock
from backends.engine.protocol import MAX_DRAFT
from backends.engine.tools import FAMILIES
from backends.openai import OWN_DIALECTS, OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import Surface
from backends.speculative.client import NoSession, Session, session_url
from backends.speculative.controller import ON_GAIN, Estimates, Observation, Span
from backends.speculative.cost import Work, usd_delta
from backends.speculative.drafting import UNMEASURED_AHEAD, Drafters, DraftModel
from backends.speculative.known import Kind, Known
from backends.speculative.ladder import Ladder, climb
from backends.speculative.options import SpeculativeOptions, surface_of, wished
from backends.speculative.passes import pass_seconds
from backends.speculative.rung import Rung
from backends.speculative.seams import Drafting
from backends.speculative.session import WAYS, Fingerprint, Open, Opened
from backends.speculative.spare import Spare
from backends.speculative.strategies.companion import Answer
from backends.speculative.strategies.one_shot import OneShot
from backends.speculative.strategies.prefix_fanout import PrefixFanout
from backends.speculative.transport import WebSocketTransport
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import UpstreamBroken
from gateway.core.events import Event, SpeculationReport, UsageReport, is_content
from gateway.core.exchange import Call
from gateway.core.routing import Tier, Upstream

CARRIED = frozenset(
    {
        Feature.CHAT,
        Feature.COMPLETION,
        Feature.FIM,
        Feature.TOKEN_PROMPT,
        Feature.TOP_K,
        Feature.MIN_P,
        Feature.SEED,
        Feature.PENALTIES,
        Feature.PREDICTION,
        Feature.LOGIT_BIAS,
        Feature.TYPICAL_P,
        Feature.REPEAT_PENALTY,
        Feature.DRY,
        Feature.IGNORE_EOS,
        Feature.MIN_TOKENS,
        Feature.TOOLS,
        Feature.JSON_MODE,
        Feature.GRAMMAR,
    }
)
"""What a session can carry. The target samples each token with its real sampler state, so settings
that look back (penalties, seeds, grammars) are as exact as without drafts."""

REST_S = 30.0
"""After a refusal that will not change by itself, for so long no session is asked for."""


class SpeculativeBackend:
    """A draft model and a companion, as one upstream."""

    options_model: ClassVar[type[Options]] = SpeculativeOptions

    def __init__(
        self,
        name: str,
        options: SpeculativeOptions,
        resources: Resources,
        *,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., Awaitable[Session]] | None = None,
    ) -> None:
        self.options = options
        self._name = name
        self._draft: DraftModel | None = None
        if options.draft is not None:
            self._draft = cast(DraftModel, part_of(resources.backends, options.draft, name))
        target = part_of(resources.backends, options.target, name)
        if not isinstance(target, OpenAIBackend):
            raise ValueError(f"upstream {name!r}: its target must be a server of OpenAI's wire")
        self._target = target
        self._clock = clock
        self._connect = connect or Session.connect
        self._spare = Spare(self._dial) if connect is None else None
        self._surface = surface_of(name, options, target)
        self._ladder = self._ladder_for(self._surface)
        self._url = session_url(target.options.base_url or "") if self._ladder is None else ""
        self._resting_until = 0.0
        self._resting_for = ""
        self._theirs: Fingerprint | None = None
        self._drafters = Drafters(self._draft, options, clock)
        self.known = Known()

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, SpeculativeOptions)
        return (options.target,) if options.draft is None else (options.draft, options.target)

    @classmethod
    def misfits(
        cls, options: Options, upstreams: Mapping[str, Options]
    ) -> Iterator[tuple[str, str]]:
        assert isinstance(options, SpeculativeOptions)
        draft, target = upstreams.get(options.draft or ""), upstreams.get(options.target)
        if target is None or (draft is None and options.draft is not None):
            return
        if not isinstance(target, OpenAIOptions):
            yield "target", f"{options.target!r} ({target.kind}) is no server of OpenAI's wire"
            return
        surface = wished(options, target.facts())
        if surface is Surface.NONE:
            yield (
                "target",
                f"nothing is known of {options.target!r} ({target.kind}) that drafts could use; "
                "`strategy` tries one, kind review does without",
            )
        if draft is None:
            if surface is not Surface.COMPANION:
                yield (
                    "draft",
                    f"only a companion is drafted for without one, not {options.target!r}",
                )
        elif surface is not Surface.ONE_SHOT and draft.kind != "llama_cpp":
            yield "draft", f"{options.draft!r} must be of kind llama_cpp to draft token by token"

    @property
    def upstream(self) -> Upstream:
        """The target's facts, in the widest zone of the two: the prompt reaches both."""
        target, options = self._target.upstream, self.options
        zone = target.zone if self._draft is None else max(self._draft.upstream.zone, target.zone)
        if "zone" in options.model_fields_set:
            zone = max(zone, options.zone)
        return replace(
            target,
            name=self._name,
            kind=options.kind,
            tier=Tier.SPECULATIVE,
            zone=zone,
            features=target.features & CARRIED if self._ladder is None else target.features,
            strategy=self._surface.value,
            context=options.context or target.context,
            price=options.price_or_listed() or target.price,
            watts=options.watts or target.watts,
        )

    @property
    def gain(self) -> float | None:
        """What an answer may expect now, all kinds together: what was realised, else the formula's;
        1 where drafting is switched off, and so never an answer slower than the target's."""
        known = self.known.pair
        expected = known.expected_gain if known.gain is None else known.gain
        if expected is None:
            return None
        return expected if expected >= ON_GAIN else 1.0

    async def start(self) -> None:
        """Nothing: the parts start themselves, and a session is opened per answer."""

    @property
    def rung(self) -> Rung | None:
        """How far the strategy is proved; None for a companion, which says itself what it is."""
        return None if self._ladder is None else self._ladder.rung

    def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        if self._ladder is not None:
            return climb(self._ladder, self.upstream, self._target, request, call)
        return self._over_session(request, call)

    async def _over_session(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        kind, shown = Kind.of(request), False
        if not (self.options.always or self.known.of(kind).needs_session):
            yield SpeculationReport(strategy="stream;off", gain=1.0, usd_delta=0.0)
            async with aclosing(self._measured(kind, request, call)) as plain:
                async for event in plain:
                    yield event
            return
        try:
            answer = await self._begin(request, call)
        except NoSession as refusal:
            why = refusal.reason
        else:
            try:
                async with aclosing(answer.events()) as events:
                    async for event in events:
                        shown = shown or is_content(event)
                        yield event
                return
            except UpstreamBroken:
                if shown:
                    raise
                why = "broken"
            finally:
                await answer.aclose()
                if self._spare is not None and answer.by_socket:
                    self._spare.prepare()
                self.known = self.known.after(kind, answer.observation())
        # Said first, for the events that follow may be the target's own frames throughout.
        yield SpeculationReport(strategy=f"stream;{why}")
        async with aclosing(self._target.stream(request, call)) as plain:
            async for event in plain:
                yield event

    async def _measured(
        self, kind: Kind, request: ChatRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """The target alone, over plain HTTP: what this takes is what drafting has to beat."""
        began = ended = self._clock()
        begun, tokens = False, 0
        try:
            async with aclosing(self._target.stream(request, call)) as plain:
                async for event in plain:
                    if is_content(event):
                        ended = self._clock()
                        began, begun = began if begun else ended, True
                    elif isinstance(event, UsageReport):
                        # The first one came before the clock ran.
                        tokens = event.usage.completion_tokens - 1
                    yield event
        finally:
            alone = Span(tokens=tokens, seconds=ended - began, passes=tokens)
            self.known = self.known.after(kind, Observation(alone=alone))

    async def count(self, request: ChatRequest) -> int | None:
        return await self._target.count(request)

    async def health(self) -> Health:
        """The target's: without the draft, answers are the same. Says how the strategy stands."""
        health = await self._target.health()
        if self._ladder is None or not health.ok:
            return health
        return replace(health, detail=str(self._ladder.rung))

    async def aclose(self) -> None:
        """A probe that is running and the spare connection; sessions end with their answers, and
        the parts themselves."""
        if self._spare is not None:
            await self._spare.aclose()
        if self._ladder is not None:
            await self._ladder.aclose()

    def _ladder_for(self, surface: Surface) -> Ladder | None:
        """The strategy for what the target lends itself to; None for a companion."""
        options, clock = self.options, self._clock
        match surface:
            case Surface.ONE_SHOT:
                draft = cast(Backend, self._draft)
                any_model = options.strategy != "auto"
                one_shot = OneShot(
                    draft,
                    self._target,
                    budget_s=options.draft_for,
                    fixed=options.always,
                    any_model=any_model,
                    clock=clock,
                )
                return Ladder(one_shot, clock=clock)
            case Surface.PREFIX_FANOUT:
                fanout = PrefixFanout(
                    cast(Drafting, self._draft),
                    self._target,
                    ahead=options.ahead or UNMEASURED_AHEAD,
                    fixed=options.always,
                    clock=clock,
                )
                return Ladder(fanout, clock=clock)
            case _:
                return None

    async def _begin(self, request: ChatRequest, call: Call) -> Answer:
        """A session that stands, and drafts for it if drafting is worth a try."""
        if self._clock() < self._resting_until:
            raise NoSession(self._resting_for)
        estimates = self.known.of(Kind.of(request))
        limit = None if self.options.always else estimates.draft_tokens()
        ours = self._drafters.fingerprint(self._theirs) if limit != 0 else None
        try:
            session, opened = await self._open(request, call, ours, estimates)
        except NoSession as refusal:
            if refusal.lasting:
                self._resting_until = self._clock() + REST_S
                self._resting_for = refusal.reason
                self._theirs = None
            raise
        self._theirs = opened.model_fp
        estimates = estimates.told(pass_seconds(opened))
        try:
            drafts = None
            if ours is not None:
                drafts = await self._drafters.sources(request, session, opened, call, estimates)
        except BaseException:
            await session.aclose()
            raise
        return Answer(
            session,
            drafts,
            estimates=estimates,
            limit=limit,
            fixed=self.options.always,
            clock=self._clock,
            family=opened.family,
            cost=self._cost,
        )

    async def _dial(self) -> WebSocketTransport:
        """A connection without a session, as the next one will want it."""
        options = self._target.options
        return await WebSocketTransport.connect(
            self._url,
            api_key=options.api_key.get_secret_value() if options.api_key else None,
            timeout_s=options.timeouts.connect,
        )

    def _cost(self, work: Work) -> float | None:
        draft = None if self._draft is None else self._draft.upstream
        return usd_delta(work, draft=draft, target=self._target.upstream)

    async def _open(
        self,
        request: ChatRequest,
        call: Call,
        ours: Fingerprint | None,
        estimates: Estimates,
    ) -> tuple[Session, Opened]:
        options = self._target.options
        widest = MAX_DRAFT + 1
        if not self.options.always:
            widest = max(2, estimates.width(widest))
        body = self._target.body(request)
        own_path = OWN_DIALECTS.get(request.dialect, "")
        chat = own_path.startswith("chat") or (not own_path and request.endpoint is Endpoint.CHAT)
        session = await self._connect(
            self._url,
            upstream=self._name,
            zone=self.upstream.zone,
            call=call,
            clock=Clock(self._name, options.timeouts, call, streaming=True),
            api_key=options.api_key.get_secret_value() if options.api_key else None,
            timeout_s=options.timeouts.connect,
            http=self._target.http,
            spare=self._spare,
        )
        try:
            opened = await session.open(
                Open(
                    model=self._target.upstream.model,
                    model_fp=ours,
                    endpoint="chat" if chat else "completion",
                    request=body,
                    max_width=widest,
                    drafts=WAYS if self._draft is not None else WAYS[:1],
                )
            )
            if opened.family and opened.family not in FAMILIES:
                raise NoSession("unknown_family")
        except BaseException:
            await session.aclose()
            raise
        return session, opened
