"""A backend whose answers are cut after so many texts, whatever stands behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar

from backends.base import Backend, Health, Options
from gateway.core.chat import ChatRequest
from gateway.core.errors import UpstreamBroken
from gateway.core.events import Event, TextDelta
from gateway.core.exchange import Call
from gateway.core.routing import Upstream


@dataclass
class CuttingBackend:
    """`whole` until `after` texts have come; None never cuts. Keeps what it was asked."""

    whole: Backend
    after: int | None
    calls: list[ChatRequest] = field(default_factory=list)

    options_model: ClassVar[type[Options]] = Options

    @property
    def upstream(self) -> Upstream:
        return self.whole.upstream

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()

    async def start(self) -> None:
        pass

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(request)
        texts = 0
        async with aclosing(self.whole.stream(request, call)) as events:
            async for event in events:
                if texts == self.after:
                    raise UpstreamBroken("cut")
                texts += isinstance(event, TextDelta)
                yield event

    async def count(self, request: ChatRequest) -> int | None:
        return await self.whole.count(request)

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass
