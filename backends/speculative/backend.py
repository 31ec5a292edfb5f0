"""Speculation as a Backend: a local model drafts, a companion's target answers.

The answer is the target's own, token for token (DESIGN 2.5); what drafting adds is speed, and the
controller ends it where it does not. Where no session comes about, the same request goes to the
target over plain HTTP, before the client has seen a byte.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Protocol, cast

from pydantic import BeforeValidator, Field

from backends.base import Backend, Health, Options, Resources, part_of
from backends.engine.prompts import Vocabulary
from backends.engine.protocol import MAX_DRAFT, Job
from backends.engine.tools import FAMILIES
from backends.http import Clock
from backends.openai import OWN_DIALECTS, OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import Profile, Surface
from backends.speculative.client import NoSession, Session, session_url
from backends.speculative.controller import Estimates
from backends.speculative.coupling import guessing
from backends.speculative.draft import Drafter
from backends.speculative.ladder import Ladder, climb
from backends.speculative.rung import Rung
from backends.speculative.seams import Drafting, Engine
from backends.speculative.session import Fingerprint, Open, Opened
from backends.speculative.strategies.companion import Answer
from backends.speculative.strategies.one_shot import OneShot
from backends.speculative.strategies.prefix_fanout import PrefixFanout
from gateway.core import quantity
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import UpstreamBroken
from gateway.core.events import Event, SpeculationReport, is_content
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
DRAFT_TOKENS = 4096


class SpeculativeOptions(Options):
    """A config entry of kind speculative.

    `draft` names an upstream of kind llama_cpp (for one_shot any), `target` a companion or another
    server of OpenAI's wire. `strategy` is how the target is used: auto takes what its kind lends
    itself to (companion; one_shot for OpenAI, Cerebras and Mistral; prefix_fanout for vLLM),
    another name is tried on any server, by a probe that costs at most 300 tokens. `ahead` bounds
    the draft's lead in tokens, `draft_for` what a one_shot draft may take before the target is
    asked. `always` drafts even where it does not pay.
    """

    draft: str
    target: str
    strategy: Literal["auto", "companion", "one_shot", "prefix_fanout"] = "auto"
    ahead: int = Field(default=8, ge=1, le=MAX_DRAFT)
    draft_for: Annotated[float, BeforeValidator(quantity.duration), Field(gt=0, le=60)] = 0.5
    always: bool = False


class DraftModel(Protocol):
    """What drafting needs of a local backend."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None while the model is not loaded."""


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
    ) -> None:
        self.options = options
        self._name = name
        self._draft = cast(DraftModel, part_of(resources.backends, options.draft, name))
        target = part_of(resources.backends, options.target, name)
        if not isinstance(target, OpenAIBackend):
            raise ValueError(f"upstream {name!r}: its target must be a server of OpenAI's wire")
        self._target = target
        self._clock = clock
        self._surface = _surface(name, options, target)
        self._ladder = self._ladder_for(self._surface)
        self._url = session_url(target.options.base_url or "") if self._ladder is None else ""
        self._resting_until = 0.0
        self._resting_for = ""
        self.estimates = Estimates()

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, SpeculativeOptions)
        return options.draft, options.target

    @classmethod
    def misfits(
        cls, options: Options, upstreams: Mapping[str, Options]
    ) -> Iterator[tuple[str, str]]:
        assert isinstance(options, SpeculativeOptions)
        draft, target = upstreams.get(options.draft), upstreams.get(options.target)
        if target is None or draft is None:
            return
        if not isinstance(target, OpenAIOptions):
            yield "target", f"{options.target!r} ({target.kind}) is no server of OpenAI's wire"
            return
        surface = _wished(options, target.facts())
        if surface is Surface.NONE:
            yield (
                "target",
                f"nothing is known of {options.target!r} ({target.kind}) that drafts could use; "
                "`strategy` tries one, kind review does without",
            )
        if surface is not Surface.ONE_SHOT and draft.kind != "llama_cpp":
            yield "draft", f"{options.draft!r} must be of kind llama_cpp to draft token by token"

    @property
    def upstream(self) -> Upstream:
        """The target's facts, in the widest zone of the two: the prompt reaches both."""
        target, options = self._target.upstream, self.options
        zone = max(self._draft.upstream.zone, target.zone)
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
        shown = False
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
                self.estimates = self.estimates.after(answer.observation())
        # Said first, for the events that follow may be the target's own frames throughout.
        yield SpeculationReport(strategy=f"stream;{why}")
        async with aclosing(self._target.stream(request, call)) as plain:
            async for event in plain:
                yield event

    async def count(self, request: ChatRequest) -> int | None:
        return await self._target.count(request)

    async def health(self) -> Health:
        """The target's: without the draft, answers are the same. Says how the strategy stands."""
        health = await self._target.health()
        if self._ladder is None or not health.ok:
            return health
        return replace(health, detail=str(self._ladder.rung))

    async def aclose(self) -> None:
        """A probe that is running; sessions end with their answers, and the parts themselves."""
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
                    ahead=options.ahead,
                    fixed=options.always,
                    clock=clock,
                )
                return Ladder(fanout, clock=clock)
            case _:
                return None

    async def _begin(self, request: ChatRequest, call: Call) -> Answer:
        """A session that stands, and a drafter on it if drafting is worth a try."""
        if self._clock() < self._resting_until:
            raise NoSession(self._resting_for)
        limit = None if self.options.always else self.estimates.draft_tokens()
        ours = Fingerprint.of(self._draft.vocabulary) if limit != 0 else None
        try:
            session, opened = await self._open(request, call, ours)
        except NoSession as refusal:
            if refusal.lasting:
                self._resting_until = self._clock() + REST_S
                self._resting_for = refusal.reason
            raise
        return Answer(
            session,
            self._drafter(session, opened, call) if ours is not None else None,
            estimates=self.estimates,
            limit=limit,
            fixed=self.options.always,
            clock=self._clock,
            family=opened.family,
        )

    async def _open(
        self, request: ChatRequest, call: Call, ours: Fingerprint | None
    ) -> tuple[Session, Opened]:
        options = self._target.options
        body = self._target.body(request)
        own_path = OWN_DIALECTS.get(request.dialect, "")
        chat = own_path.startswith("chat") or (not own_path and request.endpoint is Endpoint.CHAT)
        session = await Session.connect(
            self._url,
            upstream=self._name,
            zone=self.upstream.zone,
            call=call,
            clock=Clock(self._name, options.timeouts, call, streaming=True),
            api_key=options.api_key.get_secret_value() if options.api_key else None,
            timeout_s=options.timeouts.connect,
            http=self._target.http,
        )
        try:
            opened = await session.open(
                Open(
                    model=self._target.upstream.model,
                    model_fp=ours,
                    endpoint="chat" if chat else "completion",
                    request=body,
                    max_width=self.options.ahead + 1,
                )
            )
            if opened.family and opened.family not in FAMILIES:
                raise NoSession("unknown_family")
        except BaseException:
            await session.aclose()
            raise
        return session, opened

    def _drafter(self, session: Session, opened: Opened, call: Call) -> Drafter | None:
        ahead = min(self.estimates.ahead(self.options.ahead), opened.max_ahead)
        room = (self._draft.upstream.context or DRAFT_TOKENS) - len(opened.prompt_ids)
        if ahead < 1 or room < 1 or not opened.prompt_ids:
            return None
        job = Job(
            id=0,
            tokens=opened.prompt_ids,
            max_tokens=min(room, DRAFT_TOKENS),
            sampler=guessing(opened),
            role="draft",
            ahead=ahead,
            tenant=call.tenant,
        )
        return Drafter(self._draft.engine, job, send=session.draft, clock=self._clock)


def _wished(options: SpeculativeOptions, profile: Profile) -> Surface:
    return profile.surface if options.strategy == "auto" else Surface(options.strategy)


def _surface(name: str, options: SpeculativeOptions, target: OpenAIBackend) -> Surface:
    """What the target is used as. Raises ValueError if nothing is known to work there."""
    found = _wished(options, target.profile)
    if found is Surface.NONE:
        raise ValueError(f"upstream {name!r}: nothing is known of its target that drafts could use")
    if found is Surface.COMPANION and target.options.base_url is None:
        raise ValueError(f"upstream {name!r}: its target must be of kind companion")
    return found
