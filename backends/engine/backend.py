"""The local tier as a Backend: a GGUF file, its engine worker and its prompt helper."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from backends.base import Health, Options, Resources
from backends.engine import choices, footprint, gguf
from backends.engine.answer import Answer
from backends.engine.client import Sequence as OneSequence
from backends.engine.conversation import turn
from backends.engine.echo import Echo, Reading
from backends.engine.pool import Handle, ModelPool
from backends.engine.pooling import NoEmbeddings, use_of
from backends.engine.prediction import predicted
from backends.engine.prompts import Guide, Prompts, Vocabulary
from backends.engine.protocol import Job, Output, Role, SamplerSettings
from backends.engine.residency import NEVER, Resident
from backends.engine.resident_engine import ResidentEngine
from backends.engine.settings import EngineSettings, default_threads
from backends.engine.shape import shape
from backends.engine.snapshots import shared_memory
from gateway.core import quantity
from gateway.core.chat import (
    ChatRequest,
    Completion,
    Endpoint,
    Feature,
    Priority,
    Usage,
    utf8_length,
)
from gateway.core.errors import ContextExceeded, EngineFailed, InvalidRequest, Unsupported
from gateway.core.events import Document, Event, Finish, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.core.routing import Upstream
from gateway.core.sink import Sink
from gateway.wire.vectors import shortened

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_CONTEXT = 4096
"""Unless configured: what a model was trained for may need more memory than the machine has."""
INFILL_ROOM = 128
"""Tokens kept free for the middle when an editor does not say how many it wants."""

FEATURES = frozenset(
    {
        Feature.CHAT,
        Feature.COMPLETION,
        Feature.TOP_K,
        Feature.MIN_P,
        Feature.SEED,
        Feature.PENALTIES,
        Feature.TOKEN_PROMPT,
        Feature.LOGPROBS,
        Feature.LOGIT_BIAS,
        Feature.ECHO,
        Feature.TYPICAL_P,
        Feature.REPEAT_PENALTY,
        Feature.DRY,
        Feature.IGNORE_EOS,
        Feature.MIN_TOKENS,
        Feature.TOOLS,
        Feature.JSON_MODE,
        Feature.GRAMMAR,
        Feature.PREDICTION,
    }
)
SHARING = frozenset({Feature.N})
"""What needs sequences to share cells, which those of a strict engine cannot."""
GUIDED = frozenset({Feature.TOOLS, Feature.JSON_MODE, Feature.GRAMMAR})
TEXT_ENDS = 2
"""Tokens that a tokenizer may add around a text."""
EMBEDDING = frozenset({Feature.EMBEDDINGS, Feature.TOKEN_INPUT})
FREE = Guide()
Seconds = Annotated[float, BeforeValidator(quantity.duration)]


class DraftOptions(BaseModel):
    """`draft`: the GGUF file of a smaller model with the same vocabulary, found as `model` is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draft: str


class LlamaCppOptions(Options):
    """A local model.

    `model`: a GGUF file, relative to the model folder, or `bundled:draft` or `bundled:target`.
    `context` bounds one request, in tokens (default: as trained, at most 4096); `cells` all that
    run at once (default: `context` for each of `slots`, in a part of its own; any other number is
    one pool, which is slower the fuller it is). `strict` gives results that do not depend on who
    else is served, for up to twice the computation, and needs the memory of full `cells`.
    `max_tokens` caps an answer whose client sets no limit. `prepare_s` bounds the rendering and
    tokenizing of one prompt. `kv` is the type of the KV cells: q8_0 takes 0.53 of f16's memory,
    q4_0 0.28; both need flash attention and a head size that is a multiple of 32.
    `flash_attention`: by default on, but for models whose heads are very small.
    `sha256` pins the file: another one under its name, or a damaged one, is not loaded. Of a split
    model it is the digest over its parts' digests.
    `raw_grammars`: whether clients may send GBNF of their own; a hostile
    one can hold the worker for seconds, everyone's. `snapshot_mib` is RAM for
    conversations that had to leave the KV cells, so that their next turn need not be computed from
    its beginning (0: none; strict models keep none). `speculate`: drafts that the worker makes for
    itself. auto: by lookup in the prompt and the answer, where measurement says that it pays;
    `{draft: FILE}`: also by a smaller model, in the same way; ngram: by lookup, without asking
    whether it pays; off: not at all. `embeddings`: how the tokens' vectors become one; by default
    as the file says, and a file that says it only embeds. With mean, cls or last a model that
    generates embeds too, in cells of one more `context`; off makes it generate.

    Where several models share `memory.budget`: `preload` loads this one at the start (default:
    where there is no budget), `pin` also keeps it for good. `keep_alive` is the time without
    requests after which it is unloaded (default: when another needs its memory), `max_wait` the
    time that a request waits for it to be loaded before it gets 503.
    """

    model: str
    slots: int = Field(default=4, ge=1, le=64)
    cells: int | None = Field(default=None, ge=256)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int = Field(default=0, ge=0)
    strict: bool = False
    kv: Literal["f16", "q8_0", "q4_0"] = "f16"
    flash_attention: bool | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    default_temperature: float = Field(default=1.0, ge=0)
    queue: int = Field(default=64, ge=1)
    prepare_s: float = Field(default=2.0, gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    raw_grammars: bool = True
    snapshot_mib: int = Field(default=0, ge=0)
    speculate: Literal["auto", "off", "ngram"] | DraftOptions = "auto"
    embeddings: Literal["mean", "cls", "last", "off"] | None = None
    preload: bool | None = None
    pin: bool = False
    keep_alive: Seconds | None = None
    max_wait: Seconds = 30.0


class LlamaCppBackend:
    """Answers chat, completion and fill-in-the-middle requests from one local model.

    `engine` and `prompt` are also what speculation is built on.
    """

    options_model: ClassVar[type[Options]] = LlamaCppOptions

    def __init__(self, name: str, options: LlamaCppOptions, resources: Resources) -> None:
        self._name = name
        self._options = options
        self._path = model_path(options.model, resources.model_dir)
        self._draft = (
            model_path(options.speculate.draft, resources.model_dir)
            if isinstance(options.speculate, DraftOptions)
            else None
        )
        self._detail = "not started"
        self._features = _features(options)
        self.prompts = Prompts(self._path, limit_s=options.prepare_s)
        self._settings = EngineSettings(
            model=str(self._path),
            context=options.context or 0,
            cells=options.cells or 0,
            slots=options.slots,
            threads=options.threads or resources.threads or default_threads(),
            queue=options.queue,
            strict=options.strict,
            flash_attention=options.flash_attention,
            kv=options.kv,
            gpu_layers=options.gpu_layers,
            speculate=_speculate(options.speculate),
            draft=str(self._draft) if self._draft else "",
        )
        self._snapshots = -1
        self._pool = resources.pool or ModelPool()
        self.resident = self._pool.vacant(name)
        """The model's name in the pool."""
        self.engine = self._engine(self._settings)
        self._upstream = Upstream(
            name=name,
            kind=options.kind,
            tier=options.tier_or_default(),
            zone=options.zone,
            model=self._path.stem,
            context=options.context,
            features=self._features,
            price=options.price_or_listed(),
            watts=options.watts,
            continues=frozenset({Endpoint.CHAT, Endpoint.COMPLETION}),
        )

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Once started: what another model must share to draft for this one, or with it."""
        return self.prompts.vocabulary

    async def start(self) -> None:
        """Load vocabulary and model. A failure is told by `health`, not raised."""
        if importlib.util.find_spec("llama_cpp") is None:
            self._detail = "llama-cpp-python is not installed (the extra `local`): no local models"
        elif not self._path.is_file():
            self._detail = f"no such model file: {self._path.name}"
        elif self._draft is not None and not self._draft.is_file():
            self._detail = f"no such model file: {self._draft.name}"
        else:
            await self._load()
            return
        log.warning("%s: %s", self._name, self._detail)

    async def _load(self) -> None:
        try:
            head = await asyncio.to_thread(_examined, self._path, self._options.sha256)
            draft = await asyncio.to_thread(_examined, self._draft, None) if self._draft else None
        except gguf.GgufError as error:
            self._detail = str(error)
            log.warning("%s: %s", self._name, self._detail)
            return
        try:
            use = use_of(head, self._options.embeddings)
        except NoEmbeddings as error:
            self._detail = f"{error}."
            log.warning("%s: %s", self._upstream.name, self._detail)
            return
        try:
            await self.prompts.start()
        except EngineFailed as error:
            self._detail = f"{self._path.name} cannot be used: {error.message}"
            log.warning("%s: %s", self._name, self._detail)
            return
        facts = self.prompts.vocabulary
        assert facts is not None
        context = self._options.context or min(facts.trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if use.whole and facts.trained:
            context = min(context, facts.trained)  # beyond it some have no positions, and abort
        if context > facts.trained > 0:
            log.warning(
                "%s: context %d is more than the %d tokens the model was trained on; "
                "answers get worse beyond them",
                self._name,
                context,
                facts.trained,
            )
        settings = replace(
            self._settings,
            context=context,
            generates=use.generates,
            pooling=use.pooling,
            whole=use.whole,
        )
        needed = await asyncio.to_thread(footprint.footprint, head, settings, draft)
        if why := footprint.refusal(needed, footprint.machine_memory()):
            self._detail = f"{self._path.name} cannot be used: {why}"
            log.warning("%s: %s", self._name, self._detail)
            return
        settings = replace(
            settings,
            snapshots=self._shelf() if use.generates else -1,
            memory=footprint.address_space(needed, settings, self._options.snapshot_mib << 20),
        )
        self.engine = self._engine(settings)
        self._detail = ""
        self._join(needed.total + (self._options.snapshot_mib << 20))
        _, revision = await asyncio.gather(self._preload(), asyncio.to_thread(_digest, head.paths))
        features = self._features if use.generates else frozenset()
        if use.generates and facts.fim:
            features |= {Feature.FIM}
        self._upstream = replace(
            self._upstream,
            context=context,
            features=features | EMBEDDING if use.pooling else features,
            # Other pooling, other vectors: none of them may be served from a cache for these.
            revision=revision[:16] + (f"-{use.pooling}" if use.pooling else ""),
            created=int(self._path.stat().st_mtime),
            prompt_ceiling=facts.byte_level,
            bits=round(head.bits, 2) or None,
        )

    def _engine(self, settings: EngineSettings) -> ResidentEngine:
        wait = self._options.max_wait
        return ResidentEngine(settings, name=self.resident, pool=self._pool, max_wait=wait)

    def _join(self, size: int) -> None:
        """Share the machine's memory with the other models."""
        options = self._options
        keep_alive = NEVER if options.keep_alive is None else options.keep_alive
        self._pool.add(
            Resident(name=self.resident, size=size, pinned=options.pin, keep_alive=keep_alive),
            Handle(load=self._load_worker, unload=self._unload_worker),
        )

    async def _preload(self) -> None:
        """Load the model at the start, if it is to be; else its helper, too, waits to be needed."""
        wish = self._options.preload
        if self._options.pin or (self._pool.budget is None if wish is None else wish):
            if await self._pool.preload(self.resident):
                return
            log.warning("%s: not loaded at the start: memory.budget is taken", self._name)
        await self.prompts.rest()

    async def _load_worker(self) -> bool:
        await self.engine.start()
        return self.engine.ready is not None

    async def _unload_worker(self) -> None:
        await asyncio.gather(self.engine.aclose(), self.prompts.rest())

    async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        """The request's prompt as token ids, whole: rendered, tokenized, nothing cut.

        Except around a hole to fill, by the rule in fim.py. Raises InvalidRequest, EngineFailed.
        """
        return (await self._prepared(request))[0]

    async def _prepared(self, request: ChatRequest) -> tuple[tuple[int, ...], int]:
        """(prompt, tokens that were left out of it)"""
        self._require_started()
        if least := self._hopeless(request):
            raise self._exceeded(request, f"at least {least}")
        if request.suffix is not None or request.endpoint is Endpoint.INFILL:
            return await self._infill(request)
        if request.endpoint is Endpoint.CHAT:
            turns = [turn(m.role, m.text, m.raw) for m in request.messages]
            prompt = await self.prompts.chat(turns, offered_tools(request))
        elif isinstance(request.prompt, tuple):
            prompt = self._checked(request.prompt)
        else:
            prompt = await self.prompts.text(request.prompt) or self._beginning()
        if request.continues:
            # By itself, so that the prompt's tokens stay what they were when the answer began.
            prompt += await self.prompts.plain(request.continues, "messages")
        return prompt, 0

    def job(
        self,
        request: ChatRequest,
        prompt: tuple[int, ...],
        *,
        tenant: str = "default",
        role: Role = "generate",
        ahead: int = 0,
        guide: Guide = FREE,
    ) -> Job:
        """What the engine is asked for a request. Raises ContextExceeded if no token has room.

        `max_tokens` beyond the context ends there, with finish "length".
        """
        self._require_started()
        context = self._upstream.context or 0
        room = context - len(prompt)
        if room < 1:
            raise self._exceeded(request, str(len(prompt)))
        self._check_biases(request)
        wanted = request.sampling.max_tokens
        if wanted is None:
            wanted = self._options.max_tokens or room
        return Job(
            id=0,
            tokens=prompt,
            max_tokens=min(wanted, room),
            sampler=self._sampler(request),
            stop=tuple(s.encode("utf-8", "replace") for s in request.sampling.stop),
            role=role,
            strict=self._options.strict,
            ahead=ahead,
            logprobs=request.sampling.logprobs,
            tenant=tenant,
            priority=Priority.CHAT if request.endpoint is Endpoint.CHAT else Priority.COMPLETION,
            session=_session(request),
            grammar=guide.grammar,
            shown=guide.shown,
        )

    async def guide(self, request: ChatRequest) -> Guide:
        """The form that a request asks of its answer. Raises InvalidRequest, EngineFailed."""
        if request.features.isdisjoint(GUIDED):
            return FREE
        self._require_started()
        return await self.prompts.guide(**guiding_fields(request))

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, Sink | None]:
        if request.endpoint is Endpoint.EMBEDDINGS:
            yield await self._embed(request)
            return
        echo = Echo.of(request, strict=self._options.strict)
        count, of = choices.wanted(request, at_most=self._options.queue)
        guide = await self.guide(request)
        prompt, cut = await self._prepared(request)
        if request.sampling.max_tokens == 0 and not echo.scored:
            if echo.text:
                yield TextDelta(text=echo.text)
            yield Finish(reason="length")
            yield UsageReport(usage=Usage(prompt_tokens=len(prompt), cut_tokens=cut))
            return
        job = _timed(self.job(request, prompt, tenant=call.tenant, guide=guide), call)
        job = replace(job, prediction=await self.prediction(request))
        asked = choices.jobs(echo.job(job), of, ranked=of > count)
        answers = [self._answer(request, i, guide, echo, prompt) for i in range(count)]
        held: list[list[Output]] = [[] for _ in asked]
        completed = cached = held_tokens = failed_tokens = 0

        def told(choice: int, output: Output) -> Iterable[Event]:
            nonlocal completed, held_tokens, failed_tokens, cached
            if output.finish is not None:
                completed += output.completion_tokens
                held_tokens += output.prediction[0]
                failed_tokens += output.prediction[1]
                cached = output.cached_tokens if choice == 0 else cached
            if of > count:
                held[choice].append(output)
                return ()
            return answers[choice].events(output)

        if of == 1:
            sequence = await self.engine.submit(asked[0])
            try:
                sink: Sink | None = None
                async for output in sequence:
                    for event in told(0, output):
                        sink = (yield event) or sink
                    if sink is not None:
                        await _push(sequence, partial(told, 0), sink)
            finally:
                await sequence.aclose()
        else:
            async with aclosing(choices.outputs(self.engine, asked)) as outputs:
                async for choice, output in outputs:
                    for event in told(choice, output):
                        yield event
        for answer, best in zip(answers, choices.best(held), strict=False):
            for event in (event for output in best for event in answer.events(output)):
                yield event
        usage = Usage(
            prompt_tokens=len(prompt),
            completion_tokens=0 if echo.only else completed,
            cached_tokens=cached,
            cut_tokens=cut,
            accepted_prediction_tokens=held_tokens,
            rejected_prediction_tokens=failed_tokens,
        )
        yield UsageReport(usage=usage)

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        """What the client expects, in tokens. Raises InvalidRequest."""
        text = predicted(request.body) if Feature.PREDICTION in request.features else ""
        facts, context = self.prompts.vocabulary, self._upstream.context or 0
        if not text or facts is None:
            return ()
        return await self.prompts.plain(text[: context * facts.longest], "prediction")

    def _answer(
        self, request: ChatRequest, choice: int, guide: Guide, echo: Echo, prompt: tuple[int, ...]
    ) -> Answer:
        facts = self.prompts.vocabulary
        begun = facts is not None and prompt[0] == facts.bos
        return Answer(
            choice,
            family=guide.family,
            echo=echo,
            reading=Reading(echo, ids=isinstance(request.prompt, tuple), begun=begun),
            logprobs=request.sampling.logprobs is not None,
        )

    async def _embed(self, request: ChatRequest) -> Document:
        """Raises ContextExceeded for a text that is too long: a vector of a part would lie."""
        self._require_started()
        if Feature.EMBEDDINGS not in self._upstream.features:
            raise Unsupported(f"{self._upstream.model} does not do embeddings", param="model")
        texts = [await self._text(given) for given in request.inputs]
        made = await self.engine.embed(texts)
        try:
            cut = tuple(shortened(vector, request.dimensions) for vector in made)
        except ValueError as error:
            raise InvalidRequest(f"{error}.", param="dimensions") from None
        usage = Usage(prompt_tokens=sum(map(len, texts)))
        return Document(completion=Completion(vectors=cut, usage=usage))

    async def _text(self, given: str | tuple[int, ...]) -> tuple[int, ...]:
        """One input's tokens, all of them."""
        facts, context = self.prompts.vocabulary, self._upstream.context or 0
        assert facts is not None
        if isinstance(given, tuple):
            tokens = self._checked(given, "input")
        elif facts.byte_level and utf8_length(given) // max(facts.longest, 1) > context:
            raise self._too_long(f"at least {utf8_length(given) // facts.longest}")
        else:
            tokens = await self.prompts.text(given, "input")
        if not tokens:
            raise InvalidRequest("an input has no tokens", param="input")
        if len(tokens) > context:
            raise self._too_long(str(len(tokens)))
        return tokens

    def _too_long(self, tokens: str) -> ContextExceeded:
        return ContextExceeded(
            f"This model takes {self._upstream.context} tokens in one input, and one has {tokens}.",
            param="input",
        )

    async def count(self, request: ChatRequest) -> int | None:
        if request.endpoint is Endpoint.EMBEDDINGS:
            return await self._longest(request)
        return self._hopeless(request) or len(await self.prompt(request))

    async def health(self) -> Health:
        if self._detail:
            return Health(ok=False, detail=self._detail)
        if why := self._pool.refusal(self.resident):
            return Health(ok=False, detail=why)
        resident = self._pool.models.get(self.resident)
        state = "loaded" if resident is None else resident.state
        if state == "loaded" and self.engine.ready is None:
            return Health(ok=False, detail=self.engine.detail)
        return Health(ok=True, detail="" if state == "loaded" else state)

    async def aclose(self) -> None:
        await self._pool.remove(self.resident)
        await self.engine.aclose()
        await self.prompts.aclose()
        if self._snapshots >= 0:
            os.close(self._snapshots)
            self._snapshots = -1

    def _shelf(self) -> int:
        """The memory for snapshots: one for all workers that this model will have."""
        if self._options.snapshot_mib and self._snapshots < 0:
            self._snapshots = shared_memory(self._options.snapshot_mib << 20)
        return self._snapshots

    def _require_started(self) -> None:
        if self._detail:
            raise EngineFailed(f"the local engine is not running: {self._detail}")

    def _sampler(self, request: ChatRequest) -> SamplerSettings:
        """Unset values as OpenAI has them; for a hole in a file greedy, as an editor expects."""
        sampling = request.sampling
        fill = request.suffix is not None or request.endpoint is Endpoint.INFILL
        usual = SamplerSettings()
        default = 0.0 if fill else self._options.default_temperature
        return SamplerSettings(
            temperature=default if sampling.temperature is None else sampling.temperature,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            top_k=sampling.top_k or 0,
            min_p=sampling.min_p or 0.0,
            seed=sampling.seed,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            typical_p=_or(sampling.typical_p, usual.typical_p),
            repeat_penalty=_or(sampling.repeat_penalty, usual.repeat_penalty),
            repeat_last_n=_or(sampling.repeat_last_n, usual.repeat_last_n),
            dry_multiplier=sampling.dry_multiplier,
            dry_base=_or(sampling.dry_base, usual.dry_base),
            dry_allowed_length=_or(sampling.dry_allowed_length, usual.dry_allowed_length),
            dry_penalty_last_n=_or(sampling.dry_penalty_last_n, usual.dry_penalty_last_n),
            logit_bias=sampling.logit_bias,
            ignore_eos=sampling.ignore_eos,
            min_tokens=sampling.min_tokens,
            infill=sampling.infill,
        )

    def _check_biases(self, request: ChatRequest) -> None:
        facts = self.prompts.vocabulary
        biases = request.sampling.logit_bias
        if facts is not None and not all(token < facts.vocab_n for token, _ in biases):
            raise InvalidRequest(f"token ids are 0 to {facts.vocab_n - 1}", param="logit_bias")

    async def _infill(self, request: ChatRequest) -> tuple[tuple[int, ...], int]:
        if Feature.FIM not in self._upstream.features:
            raise InvalidRequest(
                f"{self._upstream.model} has no fill-in-the-middle tokens", param="suffix"
            )
        if isinstance(request.prompt, tuple):
            raise InvalidRequest("a prompt with a suffix is text, not token ids", param="prompt")
        context = self._upstream.context or 0
        answer = min(request.sampling.max_tokens or INFILL_ROOM, context // 2)
        tokens, cut = await self.prompts.infill(
            request.prompt,
            request.suffix or "",
            [(snippet.filename, snippet.text) for snippet in request.snippets],
            room=context - answer,
            batch=self._settings.batch,
        )
        return tokens, cut

    async def _longest(self, request: ChatRequest) -> int:
        """Tokens of the longest text: of those alone that could be too long."""
        context, longest = self._upstream.context or 0, 0
        for given in request.inputs:
            if isinstance(given, tuple):
                longest = max(longest, len(given))
            elif utf8_length(given) + TEXT_ENDS > context:
                longest = max(longest, len(await self.prompts.text(given, "input")))
        return longest

    def _hopeless(self, request: ChatRequest) -> int | None:
        """At least so many tokens, if that is too many; so that nobody tokenizes megabytes."""
        facts, context = self.prompts.vocabulary, self._upstream.context
        if facts is None or context is None or isinstance(request.prompt, tuple):
            return None
        if request.suffix is not None or request.endpoint is Endpoint.INFILL:
            return None  # these are cut to fit
        least = request.text_bytes // max(facts.longest, 1)
        return least if least > context else None

    def _exceeded(self, request: ChatRequest, taken: str) -> ContextExceeded:
        chat = request.endpoint is Endpoint.CHAT
        return ContextExceeded(
            f"This model's maximum context length is {self._upstream.context} tokens, and the "
            f"{'messages take' if chat else 'prompt takes'} {taken}.",
            param="messages" if chat else "prompt",
        )

    def _beginning(self) -> tuple[int, ...]:
        """An empty prompt is the beginning of a text."""
        facts = self.prompts.vocabulary
        first = -1 if facts is None else (facts.bos if facts.bos >= 0 else facts.eos)
        return (first,) if first >= 0 else ()

    def _checked(self, prompt: tuple[int, ...], param: str = "prompt") -> tuple[int, ...]:
        facts = self.prompts.vocabulary
        if facts is not None and not all(0 <= token < facts.vocab_n for token in prompt):
            raise InvalidRequest(f"token ids are 0 to {facts.vocab_n - 1}", param=param)
        return prompt


_Number = TypeVar("_Number", int, float)


async def _push(
    sequence: OneSequence, told: Callable[[Output], Iterable[Event]], sink: Sink
) -> None:
    """Put the rest into the sink, each step from within the engine's reader."""

    def take(output: Output) -> bool:
        for event in told(output):
            sink.put(event)
        sink.flush()
        return not sink.full

    while not await sequence.push(take):
        await sink.room()


def _features(options: LlamaCppOptions) -> frozenset[Feature]:
    lacks = set() if options.raw_grammars else {Feature.GRAMMAR}
    lacks |= {Feature.PREDICTION} if options.speculate == "off" else set()
    return (FEATURES if options.strict else FEATURES | SHARING) - lacks


def _speculate(option: str | DraftOptions) -> str:
    if isinstance(option, DraftOptions):
        return "auto"
    return "always" if option == "ngram" else option


def _or(value: _Number | None, usual: _Number) -> _Number:
    return usual if value is None else value


def offered_tools(request: ChatRequest) -> Sequence[Any]:
    """The tools that the model is to hear of."""
    if Feature.TOOLS not in request.features or request.body.get("tool_choice") == "none":
        return ()
    return request.body.get("tools") or ()


def guiding_fields(request: ChatRequest) -> dict[str, Any]:
    """The request's fields that shape its answer. Raises Unsupported for the ones of 2023."""
    body = request.body
    if Feature.TOOLS in request.features and body.get("functions"):
        raise Unsupported("'functions' is not taken any more: use 'tools'.", param="functions")
    return {
        "tools": body.get("tools"),
        "tool_choice": body.get("tool_choice"),
        "parallel": body.get("parallel_tool_calls") is not False,
        "response_format": body.get("response_format"),
        "grammar": body.get("grammar"),
    }


def model_path(model: str, model_dir: Path) -> Path:
    """Where a configured model lies; `bundled:NAME` is one of the pair that we ship."""
    kind, _, name = model.partition(":")
    if kind == "bundled":
        return BUNDLED / f"tandem-demo-{name}-q8_0.gguf"
    return model_dir / model


def _timed(job: Job, call: Call) -> Job:
    """As urgent as its client says, and dropped from the queue once nobody waits for it."""
    deadline = None if call.deadline is None else call.deadline - time.monotonic()
    batch = call.priority is Priority.BATCH
    return replace(job, deadline=deadline, priority=Priority.BATCH if batch else job.priority)


def _session(request: ChatRequest) -> str:
    """An editor's session, if it names one; a request of several choices is of none, since each
    choice is a job and the newest alone would be left."""
    named = request.extra.get("session_id")
    return named if isinstance(named, str) and choices.wanted(request)[1] == 1 else ""


def _examined(path: Path, sha256: str | None) -> gguf.Gguf:
    """The headers of a file that may be loaded. Raises GgufError."""
    head = gguf.read(path)
    shape(head)  # whether it says what its memory is counted by
    if sha256 is not None and (found := _digest(head.paths)) != sha256:
        raise gguf.GgufError(
            f"{path.name} is not the file that is pinned: its sha256 is {found[:12]}…, the"
            f" configuration says {sha256[:12]}…; it is damaged, or another one."
        )
    return head


def _digest(paths: tuple[Path, ...]) -> str:
    """Of a model's file; of a split one's, the digest over the parts' digests."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
