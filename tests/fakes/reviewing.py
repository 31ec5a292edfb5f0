"""A model that reviews drafts by a rule, in a backend's place; what else it is asked it answers."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from backends.base import Health, Options
from gateway.core.chat import ChatRequest, Usage
from gateway.core.errors import LocalUnavailable
from gateway.core.events import Event, Finish, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.core.routing import Price, Upstream
from tests.fakes.scripted import upstream

OWN_ANSWER = "four, says the reviewer"
Rule = Callable[[str, list[str]], str]
"""(the fence, the draft's lines) → all that is replied."""


def accepting(fence: str, lines: list[str]) -> str:
    return f"{fence} ACCEPT"


@dataclass
class Reviewer:
    """Says its reply in pieces of `piece` characters. `asked` are the requests that it got."""

    rule: Rule = accepting
    piece: int = 3
    finish: str = "stop"
    upstream: Upstream = replace(upstream("reviewer"), price=Price(input=1.0, output=10.0))
    asked: list[ChatRequest] = field(default_factory=list)
    open: int = 0

    options_model: ClassVar[type[Options]] = Options

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()

    async def start(self) -> None:
        pass

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        if not call.zone.admits(self.upstream.zone):
            raise LocalUnavailable("outside")
        self.asked.append(request)
        reply = self._reply(request.messages[-1].text)
        pieces = [reply[at : at + self.piece] for at in range(0, len(reply), self.piece)]
        self.open += 1
        try:
            for piece in pieces:
                yield TextDelta(text=piece)
            yield Finish(reason=self.finish)
            yield UsageReport(usage=Usage(prompt_tokens=100, completion_tokens=len(pieces)))
        finally:
            self.open -= 1

    def _reply(self, text: str) -> str:
        found = re.search(r"\n\nBEGIN (\w+)\n(.*)\nEND \1\n\n", text, re.DOTALL)
        if found is None:
            return OWN_ANSWER
        lines = [line.partition("| ")[2] for line in found[2].split("\n")]
        return self.rule(found[1], lines)

    async def count(self, request: ChatRequest) -> int | None:
        return None

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass
