"""All that can draft for an answer: the draft model, prompt lookup, the client's prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from backends.engine.payoff import Odds
from backends.engine.prompts import Vocabulary
from backends.engine.protocol import MAX_DRAFT, Job, SamplerSettings
from backends.speculative.client import Session
from backends.speculative.controller import LEAST_CHANCE, Estimates
from backends.speculative.coupling import guessing
from backends.speculative.draft import Drafter
from backends.speculative.options import SpeculativeOptions
from backends.speculative.seams import Engine, Tokenizer
from backends.speculative.session import Fingerprint, Opened
from backends.speculative.sources import Sources
from backends.speculative.spelling import Spelling
from backends.speculative.text_sources import TextDrafter, TextSources
from gateway.core.chat import ChatRequest, Feature
from gateway.core.errors import TandemError
from gateway.core.exchange import Call
from gateway.core.routing import Upstream

DRAFT_TOKENS = 4096
UNMEASURED_AHEAD = 8
"""The draft's lead while neither the round trip nor the drafter's pace is known."""
KEEP = 0.97
"""What one more trial leaves of a source's odds."""


class DraftModel(Protocol):
    """What drafting needs of a local backend."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None while the model is not loaded."""

    @property
    def prompts(self) -> Tokenizer: ...

    async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        """The request's prompt as this model reads it. Raises a TandemError."""

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        """What the client expects the answer to be, in tokens. Raises InvalidRequest."""


class Drafters:
    """Makes an answer's sources, and remembers between answers how often each kind of them held."""

    def __init__(
        self, draft: DraftModel | None, options: SpeculativeOptions, clock: Callable[[], float]
    ) -> None:
        self._draft = draft
        self._options = options
        self._clock = clock
        self._odds: dict[tuple[str, int], Odds] = {}
        self._spelling: Spelling | None = None

    def fingerprint(self, theirs: Fingerprint | None) -> Fingerprint | None:
        """Whose token ids the drafts will be. Without a model they are the target's own, `theirs`,
        which the first session tells."""
        if self._draft is None:
            return theirs if self._options.ngram else None
        return Fingerprint.of(self._draft.vocabulary)

    async def sources(
        self,
        request: ChatRequest,
        session: Session,
        opened: Opened,
        call: Call,
        estimates: Estimates,
    ) -> Sources | None:
        """Everything that can draft for this answer; None if nothing can."""
        at_most = min(self._options.ahead or MAX_DRAFT, opened.max_ahead)
        by_text = opened.drafts == "text" and self._draft is not None
        if at_most < 1 or not (opened.prompt_ids or by_text):
            return None
        unmeasured = min(at_most, UNMEASURED_AHEAD)
        # Whether it pays was decided; who asks for a probe gets one.
        ahead = max(1, estimates.ahead(at_most, unmeasured=unmeasured))
        floor = estimates.break_even()
        if self._options.always:
            ahead, floor = max(ahead, unmeasured), LEAST_CHANCE
        prediction: tuple[int, ...] = ()
        if self._draft is not None and Feature.PREDICTION in request.features:
            try:
                prediction = await self._draft.prediction(request)
            except TandemError:
                pass  # the answer does not need it
        if by_text:
            return await self._by_text(request, session, call, (ahead, floor), prediction)
        drafts = Sources(
            opened.prompt_ids,
            send=session.draft,
            odds=self._odds_of,
            ahead=ahead,
            floor=floor,
            prediction=prediction,
            ngram=self._options.ngram,
        )
        job = self._job(opened.prompt_ids, guessing(opened), call, ahead, floor)
        if self._draft is not None and job is not None:
            drafts.begin(Drafter(self._draft.engine, job, send=drafts.said, clock=self._clock))
        elif drafts.alone:
            return None
        return drafts

    async def _by_text(
        self,
        request: ChatRequest,
        session: Session,
        call: Call,
        bounds: tuple[int, float],
        prediction: Sequence[int],
    ) -> TextSources | None:
        """The same for a target of another vocabulary. The draft model reads the request by itself,
        in its own template; what it makes of it can cost acceptance and nothing else."""
        assert self._draft is not None
        if Feature.TOKEN_PROMPT in request.features:
            return None  # ids of the target's
        spelling = self._spelling = self._spelling or Spelling(self._draft.prompts)
        try:
            prompt = await self._draft.prompt(request)
            read = b"".join(await spelling.of(prompt))
            expected = b"".join(await spelling.of(prediction))
        except TandemError:
            return None  # the answer does not need it
        ahead, floor = bounds
        drafts = TextSources(
            read,
            send=session.draft,
            odds=self._odds_of,
            ahead=ahead,
            floor=floor,
            prediction=expected,
            ngram=self._options.ngram,
        )
        job = self._job(prompt, SamplerSettings(), call, ahead, floor)
        if job is not None:
            engine, clock = self._draft.engine, self._clock
            drafts.begin(TextDrafter(engine, job, spelling=spelling, said=drafts.said, clock=clock))
        elif drafts.alone:
            return None
        return drafts

    def _job(
        self,
        prompt: tuple[int, ...],
        sampler: SamplerSettings,
        call: Call,
        ahead: int,
        floor: float,
    ) -> Job | None:
        if self._draft is None:
            return None
        room = (self._draft.upstream.context or DRAFT_TOKENS) - len(prompt)
        if room < 1:
            return None
        return Job(
            id=0,
            tokens=prompt,
            max_tokens=min(room, DRAFT_TOKENS),
            sampler=sampler,
            role="draft",
            ahead=ahead,
            floor=floor,
            tenant=call.tenant,
        )

    def _odds_of(self, source: str, group: int) -> Odds:
        return self._odds.setdefault((source, group), Odds(keep=KEEP))
