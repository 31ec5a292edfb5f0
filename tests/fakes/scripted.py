"""A backend that does what a script says: events to yield, errors to raise, gates to wait at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from backends.base import Health, Options, Resources
from gateway.core.chat import ChatRequest, Feature, Usage
from gateway.core.errors import TandemError
from gateway.core.events import Event, Finish, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.core.routing import Tier, Upstream, Zone

Step = Event | TandemError | asyncio.Event

EVERYTHING = frozenset(Feature)


def upstream(name: str, **changes: object) -> Upstream:
    """An upstream that can do everything, of the cloud tier unless told otherwise."""
    plain = Upstream(
        name=name,
        kind="scripted",
        tier=Tier.CLOUD,
        zone=Zone.PUBLIC,
        model=f"{name}-model",
        features=EVERYTHING,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def saying(*texts: str, usage: Usage | None = None) -> list[Step]:
    """A script that says these texts and ends well."""
    steps: list[Step] = [TextDelta(text=text) for text in texts]
    steps.append(Finish(reason="stop"))
    steps.append(UsageReport(usage=usage or Usage(prompt_tokens=3, completion_tokens=len(texts))))
    return steps


@dataclass
class ScriptedBackend:
    """Plays `script` for each request. An error is raised; an asyncio.Event is waited for.

    A script that is a function is asked anew for each request.
    """

    upstream: Upstream
    script: Sequence[Step] | Callable[[], Sequence[Step]] = ()
    ok: bool = True
    tokens: int | None = None
    calls: list[ChatRequest] = field(default_factory=list)
    told: list[Call] = field(default_factory=list)
    open_streams: int = 0
    closed: bool = False

    options_model: ClassVar[type[Options]] = Options

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()

    @classmethod
    def build(cls, name: str, options: Options, resources: Resources) -> ScriptedBackend:
        return cls(upstream(name), saying("built"))

    async def start(self) -> None:
        pass

    async def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(request)
        self.told.append(call)
        self.open_streams += 1
        try:
            for step in self.script() if callable(self.script) else self.script:
                if isinstance(step, TandemError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                yield step
        finally:
            self.open_streams -= 1

    async def count(self, request: ChatRequest) -> int | None:
        return self.tokens

    async def health(self) -> Health:
        return Health(ok=self.ok, detail="" if self.ok else "scripted down")

    async def aclose(self) -> None:
        self.closed = True
