"""A request, read for one local model: its prompt in tokens, its job, its form.

What cannot fit or makes no sense for this model is refused here, before the engine hears of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from backends.engine import choices
from backends.engine.conversation import turn
from backends.engine.options import LlamaCppOptions
from backends.engine.prediction import predicted
from backends.engine.prompts import Guide, Prompts
from backends.engine.protocol import Job, Role, SamplerSettings
from gateway.core.chat import ChatRequest, Endpoint, Feature, Priority, utf8_length
from gateway.core.errors import ContextExceeded, InvalidRequest, Unsupported
from gateway.core.routing import Upstream

INFILL_ROOM = 128
"""Tokens kept free for the middle when an editor does not say how many it wants."""

GUIDED = frozenset({Feature.TOOLS, Feature.JSON_MODE, Feature.GRAMMAR})
TEXT_ENDS = 2
"""Tokens that a tokenizer may add around a text."""
FREE = Guide()


class RequestReader:
    """For one model, `upstream`, which grows as its file is read."""

    def __init__(
        self, options: LlamaCppOptions, prompts: Prompts, upstream: Upstream, *, batch: int
    ) -> None:
        self.upstream = upstream
        self._options = options
        self._prompts = prompts
        self._batch = batch

    async def prepared(self, request: ChatRequest) -> tuple[tuple[int, ...], int]:
        """(prompt in token ids, tokens that were left out around a hole to fill, by fim.py's rule)

        Nothing else is cut. Raises InvalidRequest, ContextExceeded, EngineFailed.
        """
        if least := self.hopeless(request):
            raise self._exceeded(request, f"at least {least}")
        if request.suffix is not None or request.endpoint is Endpoint.INFILL:
            return await self._infill(request)
        if request.endpoint is Endpoint.CHAT:
            turns = [turn(m.role, m.text, m.raw) for m in request.messages]
            prompt = await self._prompts.chat(turns, offered_tools(request))
        elif isinstance(request.prompt, tuple):
            prompt = self._checked(request.prompt)
        else:
            prompt = await self._prompts.text(request.prompt) or self._beginning()
        if request.continues:
            # By itself, so that the prompt's tokens stay what they were when the answer began.
            prompt += await self._prompts.plain(request.continues, "messages")
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
        context = self.upstream.context or 0
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
        return await self._prompts.guide(**guiding_fields(request))

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        """What the client expects, in tokens. Raises InvalidRequest."""
        text = predicted(request.body) if Feature.PREDICTION in request.features else ""
        facts, context = self._prompts.vocabulary, self.upstream.context or 0
        if not text or facts is None:
            return ()
        return await self._prompts.plain(text[: context * facts.longest], "prediction")

    async def text(self, given: str | tuple[int, ...]) -> tuple[int, ...]:
        """One input's tokens, all of them."""
        facts, context = self._prompts.vocabulary, self.upstream.context or 0
        assert facts is not None
        if isinstance(given, tuple):
            tokens = self._checked(given, "input")
        elif facts.byte_level and utf8_length(given) // max(facts.longest, 1) > context:
            raise self._too_long(f"at least {utf8_length(given) // facts.longest}")
        else:
            tokens = await self._prompts.text(given, "input")
        if not tokens:
            raise InvalidRequest("an input has no tokens", param="input")
        if len(tokens) > context:
            raise self._too_long(str(len(tokens)))
        return tokens

    async def longest(self, request: ChatRequest) -> int:
        """Tokens of the longest text: of those alone that could be too long."""
        context, longest = self.upstream.context or 0, 0
        for given in request.inputs:
            if isinstance(given, tuple):
                longest = max(longest, len(given))
            elif utf8_length(given) + TEXT_ENDS > context:
                longest = max(longest, len(await self._prompts.text(given, "input")))
        return longest

    def hopeless(self, request: ChatRequest) -> int | None:
        """At least so many tokens, if that is too many; so that nobody tokenizes megabytes."""
        facts, context = self._prompts.vocabulary, self.upstream.context
        if facts is None or context is None or isinstance(request.prompt, tuple):
            return None
        if request.suffix is not None or request.endpoint is Endpoint.INFILL:
            return None  # these are cut to fit
        least = request.text_bytes // max(facts.longest, 1)
        return least if least > context else None

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
        facts = self._prompts.vocabulary
        biases = request.sampling.logit_bias
        if facts is not None and not all(token < facts.vocab_n for token, _ in biases):
            raise InvalidRequest(f"token ids are 0 to {facts.vocab_n - 1}", param="logit_bias")

    async def _infill(self, request: ChatRequest) -> tuple[tuple[int, ...], int]:
        if Feature.FIM not in self.upstream.features:
            raise InvalidRequest(
                f"{self.upstream.model} has no fill-in-the-middle tokens", param="suffix"
            )
        if isinstance(request.prompt, tuple):
            raise InvalidRequest("a prompt with a suffix is text, not token ids", param="prompt")
        context = self.upstream.context or 0
        answer = min(request.sampling.max_tokens or INFILL_ROOM, context // 2)
        tokens, cut = await self._prompts.infill(
            request.prompt,
            request.suffix or "",
            [(snippet.filename, snippet.text) for snippet in request.snippets],
            room=context - answer,
            batch=self._batch,
        )
        return tokens, cut

    def _too_long(self, tokens: str) -> ContextExceeded:
        return ContextExceeded(
            f"This model takes {self.upstream.context} tokens in one input, and one has {tokens}.",
            param="input",
        )

    def _exceeded(self, request: ChatRequest, taken: str) -> ContextExceeded:
        chat = request.endpoint is Endpoint.CHAT
        return ContextExceeded(
            f"This model's maximum context length is {self.upstream.context} tokens, and the "
            f"{'messages take' if chat else 'prompt takes'} {taken}.",
            param="messages" if chat else "prompt",
        )

    def _beginning(self) -> tuple[int, ...]:
        """An empty prompt is the beginning of a text."""
        facts = self._prompts.vocabulary
        first = -1 if facts is None else (facts.bos if facts.bos >= 0 else facts.eos)
        return (first,) if first >= 0 else ()

    def _checked(self, prompt: tuple[int, ...], param: str = "prompt") -> tuple[int, ...]:
        facts = self._prompts.vocabulary
        if facts is not None and not all(0 <= token < facts.vocab_n for token in prompt):
            raise InvalidRequest(f"token ids are 0 to {facts.vocab_n - 1}", param=param)
        return prompt


_Number = TypeVar("_Number", int, float)


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


def _session(request: ChatRequest) -> str:
    """An editor's session, if it names one; a request of several choices is of none, since each
    choice is a job and the newest alone would be left."""
    named = request.extra.get("session_id")
    return named if isinstance(named, str) and choices.wanted(request)[1] == 1 else ""
