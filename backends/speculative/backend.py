"""Speculation as a Backend: a local model drafts, a companion's target answers.

The answer is the target's own, token for token (DESIGN 2.5); what drafting adds is speed, and the
controller ends it where it does not. Where no session comes about, the same request goes to the
target over plain HTTP, before the client has seen a byte.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar, Protocol, cast

from pydantic import Field

from backends.base import Health, Options, Resources, part_of
from backends.engine.prompts import Vocabulary
from backends.engine.protocol import MAX_DRAFT, Job
from backends.http import Clock
from backends.openai import OWN_DIALECTS, OpenAIBackend
from backends.speculative.client import NoSession, Session, session_url
from backends.speculative.controller import Estimates
from backends.speculative.draft import Drafter
from backends.speculative.seams import Engine
from backends.speculative.session import Fingerprint, Open, Opened
from backends.speculative.strategies.companion import Answer
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
    }
)
"""What a session can carry. The target samples each token with its real sampler state, so settings
that look back (penalties, seeds) are as exact as without drafts."""

REST_S = 30.0
"""After a refusal that will not change by itself, for so long no session is asked for."""
DRAFT_TOKENS = 4096


class SpeculativeOptions(Options):
    """A config entry of kind speculative.

    `draft` and `target` name upstreams of kind llama_cpp and companion. `ahead` bounds the draft's
    lead. `always` drafts even where it does not pay.
    """

    draft: str
    target: str
    ahead: int = Field(default=8, ge=1, le=MAX_DRAFT)
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
        if not isinstance(target, OpenAIBackend) or target.options.base_url is None:
            raise ValueError(f"upstream {name!r}: its target must be of kind companion")
        self._target = target
        self._url = session_url(target.options.base_url)
        self._clock = clock
        self._resting_until = 0.0
        self._resting_for = ""
        self.estimates = Estimates()

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, SpeculativeOptions)
        return options.draft, options.target

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
            features=target.features & CARRIED,
            context=options.context or target.context,
            price=options.price_or_listed() or target.price,
            watts=options.watts or target.watts,
        )

    async def start(self) -> None:
        """Nothing: the parts start themselves, and a session is opened per answer."""

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
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
        """The target's: without the draft, answers are the same."""
        return await self._target.health()

    async def aclose(self) -> None:
        """Nothing: sessions end with their answers, and the parts close themselves."""

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
            role="draft",
            ahead=ahead,
            tenant=call.tenant,
        )
        return Drafter(self._draft.engine, job, send=session.draft, clock=self._clock)
