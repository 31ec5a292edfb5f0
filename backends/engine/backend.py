"""The local tier as a Backend: a GGUF file, its engine worker and its prompt helper."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import ClassVar

from backends.base import Health, Options, Resources
from backends.engine import choices, footprint, gguf
from backends.engine.answer import Answer
from backends.engine.echo import Echo, Reading
from backends.engine.model_file import digest, examined
from backends.engine.options import (
    DraftOptions,
    LlamaCppOptions,
    features_of,
    model_path,
    speculation_of,
)
from backends.engine.pool import Handle, ModelPool
from backends.engine.pooling import NoEmbeddings, use_of
from backends.engine.prompts import Guide, Prompts, Vocabulary
from backends.engine.protocol import Job, Output, Role
from backends.engine.requests import FREE, RequestReader
from backends.engine.residency import NEVER, Resident
from backends.engine.resident_engine import ResidentEngine
from backends.engine.sequence import Sequence as OneSequence
from backends.engine.settings import EngineSettings, default_threads
from backends.engine.snapshots import shared_memory
from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature, Priority, Usage
from gateway.core.errors import EngineFailed, InvalidRequest, Unsupported
from gateway.core.events import Document, Event, Finish, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.core.routing import Upstream
from gateway.core.sink import Sink
from gateway.wire.vectors import shortened

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 4096
"""Unless configured: what a model was trained for may need more memory than the machine has."""
EMBEDDING = frozenset({Feature.EMBEDDINGS, Feature.TOKEN_INPUT})


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
        self._features = features_of(options)
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
            speculate=speculation_of(options.speculate),
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
        self._requests = RequestReader(
            options, self.prompts, self._upstream, batch=self._settings.batch
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

    @property
    def wait_s(self) -> float:
        """Until a slot is free, and before that until the model is in memory."""
        return self._pool.load_left_s(self.resident) + self.engine.turns.wait_s

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
            head = await asyncio.to_thread(examined, self._path, self._options.sha256)
            draft = await asyncio.to_thread(examined, self._draft, None) if self._draft else None
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
        _, revision = await asyncio.gather(self._preload(), asyncio.to_thread(digest, head.paths))
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
        self._requests.upstream = self._upstream

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
        self._require_started()
        return (await self._requests.prepared(request))[0]

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
        """What the engine is asked for a request. Raises ContextExceeded if no token has room."""
        self._require_started()
        read = self._requests
        return read.job(request, prompt, tenant=tenant, role=role, ahead=ahead, guide=guide)

    async def guide(self, request: ChatRequest) -> Guide:
        """The form that a request asks of its answer. Raises InvalidRequest, EngineFailed."""
        self._require_started()
        return await self._requests.guide(request)

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        """What the client expects, in tokens. Raises InvalidRequest."""
        return await self._requests.prediction(request)

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, Sink | None]:
        if request.endpoint is Endpoint.EMBEDDINGS:
            yield await self._embed(request)
            return
        echo = Echo.of(request, strict=self._options.strict)
        count, of = choices.wanted(request, at_most=self._options.queue)
        guide = await self.guide(request)
        prompt, cut = await self._requests.prepared(request)
        if request.sampling.max_tokens == 0 and not echo.scored:
            for choice in range(count):
                if echo.text:
                    yield TextDelta(text=echo.text, choice=choice)
                yield Finish(reason="length", choice=choice)
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
        texts = [await self._requests.text(given) for given in request.inputs]
        made = await self.engine.embed(texts)
        try:
            cut = tuple(shortened(vector, request.dimensions) for vector in made)
        except ValueError as error:
            raise InvalidRequest(f"{error}.", param="dimensions") from None
        usage = Usage(prompt_tokens=sum(map(len, texts)))
        return Document(completion=Completion(vectors=cut, usage=usage))

    async def count(self, request: ChatRequest) -> int | None:
        if request.endpoint is Endpoint.EMBEDDINGS:
            return await self._requests.longest(request)
        return self._requests.hopeless(request) or len(await self.prompt(request))

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


def _timed(job: Job, call: Call) -> Job:
    """As urgent as its client says, and dropped from the queue once nobody waits for it."""
    deadline = None if call.deadline is None else call.deadline - time.monotonic()
    batch = call.priority is Priority.BATCH
    return replace(job, deadline=deadline, priority=Priority.BATCH if batch else job.priority)
