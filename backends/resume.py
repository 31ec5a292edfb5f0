"""What has been said of one answer, and the request for the rest of it. Pure.

Only plain text is resumed: of a tool call, a form or several choices nobody else can know how far
it had got, and what a model thought is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.core.chat import ChatRequest, Endpoint, Feature, Usage, utf8_length
from gateway.core.events import Event, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta

BYTES_PER_TOKEN = 4
MOST_TEXT = 1024 * 1024
"""Characters that are kept of an answer, to resume it from."""

SHAPED = frozenset(
    {
        Feature.TOOLS,
        Feature.JSON_MODE,
        Feature.GRAMMAR,
        Feature.N,
        Feature.LOGPROBS,
        Feature.SPEECH,
        Feature.ECHO,
        Feature.FIM,
        Feature.TOKEN_PROMPT,
        Feature.PROMPT_LIST,
    }
)
"""What makes an answer more than a text that has a beginning and a rest."""
_LIMITS = ("max_completion_tokens", "max_tokens")


def may_resume(request: ChatRequest) -> bool:
    """Whether an answer to this request can be gone on with by somebody else, if it is text."""
    if request.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETION):
        return False
    if request.suffix is not None or not request.features.isdisjoint(SHAPED):
        return False
    # A client that began the answer itself, which each server takes in its own way.
    begun = bool(request.messages) and request.messages[-1].role == "assistant"
    return not begun and not request.continues


class Said:
    """The text that a client has of one answer. What may become a stop string is held back.

    For who goes on looks for stop strings only in what it says itself: what was held back it says
    again, and so meets one that the cut went through.
    """

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self._stop = request.sampling.stop
        self._held = ""
        self._pieces: list[str] = []
        self._room = MOST_TEXT
        self._tokens = 0
        self._held_tokens = 0
        self._counted = True
        self.resumable = may_resume(request)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """Tokens that were told with the text if all of them were, else a guess."""
        if self._counted:
            return self._tokens
        return max(self._tokens, -(-utf8_length(self.text) // BYTES_PER_TOKEN))

    def note(self, event: Event) -> None:
        """Take notice of an event that is no text."""
        if isinstance(event, ReasoningDelta | RefusalDelta | ToolCallDelta):
            self.resumable = False

    def push(self, event: TextDelta) -> str:
        """More text; returns what may be shown now."""
        self._tokens += event.tokens
        self._counted &= event.tokens > 0 or not event.text
        self.resumable &= event.choice == 0 and self._room >= len(event.text)
        if not self.resumable:
            self._pieces.clear()
            held, self._held = self._held, ""
            return held + event.text
        text = self._held + event.text
        keep = self._unsure(text)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self._held_tokens = 0 if shown else self._held_tokens + event.tokens
        self._room -= len(shown)
        self._pieces.append(shown)
        return shown

    def flush(self) -> str:
        """What was held back, when its upstream has ended the answer."""
        held, self._held = self._held, ""
        self._pieces.append(held)
        return held

    def drop(self) -> None:
        """Forget what was held back: who goes on will say it."""
        self._tokens -= self._held_tokens
        self._held, self._held_tokens = "", 0

    def rest(self) -> ChatRequest | None:
        """The request for what follows; None if all tokens that were asked for have been said."""
        spent, sampling = self.tokens, self.request.sampling
        limit = sampling.max_tokens
        if limit is not None:
            if self._counted and spent >= limit:
                return None
            limit = max(1, limit - spent)
        least = max(0, sampling.min_tokens - spent)
        return replace(
            self.request,
            continues=self.text,
            stream=True,
            sampling=replace(sampling, max_tokens=limit, min_tokens=least),
            body=_limited(self.request.body, limit, least),
        )

    def _unsure(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string could begin with."""
        longest = max((len(stop) for stop in self._stop), default=0) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[-size:]
            if any(len(stop) > size and stop.startswith(end) for stop in self._stop):
                return size
        return 0


def share(request: ChatRequest, completion_tokens: int) -> Usage:
    """What an upstream that was cut has read and said; it did not live to tell."""
    return Usage(
        prompt_tokens=-(-request.text_bytes // BYTES_PER_TOKEN),
        completion_tokens=completion_tokens,
        estimated=True,
    )


def _limited(body: Mapping[str, Any], limit: int | None, least: int) -> dict[str, Any]:
    """The client's body with what is left of its limits."""
    changed = dict(body)
    if limit is not None:
        said = [name for name in _LIMITS if body.get(name) is not None] or ["max_tokens"]
        changed |= dict.fromkeys(said, limit)
    if body.get("min_tokens"):
        changed["min_tokens"] = least
    return changed
