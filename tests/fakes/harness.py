"""A whole pipeline over scripted backends, with time turned by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from gateway.admission import Admission
from gateway.balance import Groups
from gateway.balancer import Balancer
from gateway.cache.memory import MemoryCache
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling
from gateway.core.events import Event
from gateway.core.exchange import Caller, Exchange, ExchangeRecord, Reply
from gateway.core.sink import Whole
from gateway.fleet import Fleet
from gateway.pipeline import Pipeline
from gateway.plan import Alias, Planner, Rulebook
from router_policies.base import Settings
from router_policies.pin import PinPolicy
from router_policies.static import StaticPolicy
from tests.fakes.scripted import ScriptedBackend


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


class Kept:
    """A sink that keeps what comes; `behind`: a client that has to be waited for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.behind = False
        self.waited = 0

    def put(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        pass

    def hand(self, event: Event) -> bool:
        self.put(event)
        return not self.full

    @property
    def full(self) -> bool:
        return self.behind

    async def room(self) -> None:
        self.waited += 1
        while self.behind:
            await asyncio.sleep(0)


async def leave(reply: Reply, after: Callable[[Event], bool]) -> None:
    """Be a client that leaves after such an event."""
    kept = Kept()
    going = asyncio.create_task(reply.events.into(kept))
    while not any(map(after, kept.events)):
        await asyncio.sleep(0)
    going.cancel()
    await asyncio.wait([going])
    assert going.cancelled()
    await reply.events.aclose()


class Harness:
    """A pipeline over scripted backends, with the records it wrote."""

    def __init__(
        self,
        backends: Iterable[ScriptedBackend],
        *,
        cache: bool = False,
        limit: int = 4,
        clock: Callable[[], float] | None = None,
        groups: Groups | None = None,
        seed: int = 1,
    ) -> None:
        self.backends = {backend.upstream.name: backend for backend in backends}
        self.records: list[ExchangeRecord] = []
        self.now = 100.0
        clock = clock or (lambda: self.now)
        self.admission = Admission(limit=limit)
        names = tuple(self.backends)
        rulebook = Rulebook(
            aliases={
                "auto": Alias(candidates=names, policy=StaticPolicy(Settings()), groups=groups)
            },
            pin=PinPolicy(),
            locality=lambda facts: None,
            reach=lambda alias, facts, names: names,
            epoch="1",
        )
        self.fleet = Fleet(self.backends, clock)
        self.pipeline = Pipeline(
            fleet=self.fleet,
            planner=Planner(self.fleet, rulebook, Balancer(clock, random.Random(seed))),
            admission=self.admission,
            cache=MemoryCache(wall=lambda: self.now) if cache else None,
            record=self.records.append,
            energy=lambda upstream, seconds: (None, True),
            clock=clock,
            wall=clock,
        )

    async def answer(self, model: str = "auto", **changes: Any) -> str:
        """The text of one answer, its stream closed."""
        reply = await self.reply(model, **changes)
        try:
            whole = Whole()
            await reply.events.into(whole)
            return whole.completion().choices[0].text
        finally:
            await reply.events.aclose()

    async def reply(self, model: str = "auto", **changes: Any) -> Any:
        await self.fleet.look()
        return await self.pipeline.answer(exchange(model, **changes))


def exchange(
    model: str = "auto",
    *,
    caller: Caller = Caller(),
    headers: dict[str, str] | None = None,
    **changes: Any,
) -> Exchange:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
    }
    request = ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model=model,
        messages=(Message(role="user", text="hi", raw=body["messages"][0]),),  # type: ignore[index]
        sampling=Sampling(temperature=0),
        features=frozenset({Feature.CHAT}),
        body=body,
    )
    request = replace(request, **changes)
    return Exchange(
        id="req_1", caller=caller, request=request, arrived=100.0, headers=headers or {}
    )
