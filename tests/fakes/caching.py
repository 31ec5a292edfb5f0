"""An upstream in virtual time that keeps what it has read, as vLLM and providers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gateway.core.chat import ChatRequest, Usage
from gateway.core.errors import UpstreamUnreachable
from gateway.core.events import Event
from gateway.core.exchange import Call
from tests.fakes.scripted import ScriptedBackend, saying, upstream

CHARACTERS_PER_TOKEN = 4


class CachingBox(ScriptedBackend):
    """Reads what its cache does not have at `token_s` a token, one prompt at a time, then answers
    for `answer_s`. `cached` and `read` sum the prompt tokens; `most` is the most inside at once.
    """

    token_s = 0.0002
    answer_s = 0.5
    broken = False
    reports = True

    def __init__(self, name: str) -> None:
        super().__init__(upstream(name, model="same"))
        self.kept: set[tuple[str, ...]] = set()
        self.reading = asyncio.Lock()
        self.cached = self.read = 0
        self.inside = self.most = 0

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(request)
        if self.broken:
            raise UpstreamUnreachable("refused")
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            texts = tuple(message.text for message in request.messages)
            tokens = sum(map(len, texts)) // CHARACTERS_PER_TOKEN
            begins = [texts[:end] for end in range(1, len(texts) + 1)]
            async with self.reading:
                longest = max((b for b in begins if b in self.kept), key=len, default=())
                cached = sum(map(len, longest)) // CHARACTERS_PER_TOKEN
                await asyncio.sleep(0.02 + (tokens - cached) * self.token_s)
                self.kept.update(begins)
            self.cached, self.read = self.cached + cached, self.read + tokens
            usage = Usage(
                prompt_tokens=tokens,
                completion_tokens=1,
                cached_tokens=cached if self.reports else 0,
            )
            first, *others = saying("x", usage=usage)
            yield first  # type: ignore[misc]
            await asyncio.sleep(self.answer_s)
            for event in others:
                yield event  # type: ignore[misc]
        finally:
            self.inside -= 1


def boxes(count: int) -> list[CachingBox]:
    """So many that are equal in everything but their name."""
    return [CachingBox(f"box-{at}") for at in range(count)]
