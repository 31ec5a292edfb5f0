"""`echo`: the prompt comes back before the answer, as it was sent or token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backends.engine.logprobs import Entry
from backends.engine.protocol import Job
from gateway.core.chat import ChatRequest, Feature
from gateway.core.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """`text` is the prompt if it was given as text. `scored`: the engine reads it back, since only
    it knows the tokens' log-probabilities, or the text of token ids. `only`: no answer follows.
    """

    text: str = ""
    scored: bool = False
    only: bool = False

    @classmethod
    def of(cls, request: ChatRequest, *, strict: bool) -> Echo:
        """Raises InvalidRequest for what cannot be echoed."""
        if Feature.ECHO not in request.features:
            return cls()
        if request.suffix is not None:
            raise InvalidRequest("a prompt with a suffix is not echoed", param="echo")
        ids = isinstance(request.prompt, tuple)
        scored = ids or request.sampling.logprobs is not None
        if scored and strict:
            raise InvalidRequest(
                "a strict model echoes text only, without log-probabilities", param="echo"
            )
        text = "" if isinstance(request.prompt, tuple) else request.prompt
        return cls(text=text, scored=scored, only=request.sampling.max_tokens == 0)

    def job(self, job: Job) -> Job:
        """The same job, its prompt read back if that is asked for."""
        if not self.scored:
            return job
        return replace(job, scored=True, max_tokens=max(1, job.max_tokens))


class Reading:
    """What the engine reads back, without what tokenizing put before a text."""

    def __init__(self, echo: Echo, *, ids: bool, begun: bool) -> None:
        """`begun`: the first token may be the tokenizer's own beginning of a text."""
        self._text = echo.text
        self._begun = begun and not ids
        self._spaced = not ids and not echo.text.startswith(" ")

    def clean(self, text: str, entries: tuple[Entry, ...]) -> tuple[str, tuple[Entry, ...]]:
        if self._begun and entries:
            self._begun = False
            first = entries[0][0].decode("utf-8", "replace")
            if not first or not self._text.startswith(first):
                text, entries = text[len(first) :], entries[1:]
        if self._spaced and text:
            self._spaced = False
            if text[0] == " " and entries:
                data, logprob, top = entries[0]
                text, entries = text[1:], ((data[1:], logprob, top), *entries[1:])
        return text, entries
