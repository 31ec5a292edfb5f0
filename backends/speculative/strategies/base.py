"""The seam of speculation: how a kind of upstream is made to answer sooner, and how it is proved.

A strategy turns a request into the target's own answer. It may decline before it has said anything,
and plain streaming answers then: below every rung lies the stream. It is asked for no answer before
its probe has shown that the upstream does, here and today, what the rung rests on; ladder.py keeps
that proof. To add one: a module here, its line in backend.py's `_ladder_for`, and a harness in
tests/contracts/test_strategies.py, whose promises are the contract.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from gateway.core.chat import ChatRequest
from gateway.core.events import Event
from gateway.core.exchange import Call

MOST_PROBE_TOKENS = 300
"""What a probe may have an upstream read and write, all its requests together."""

Events: TypeAlias = AsyncGenerator[Event, None]


class Declined(Exception):
    """Not this request, or not now: plain streaming answers it. Before any content only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Surprise(Exception):
    """The upstream did what one that was proved does not: the rung is not to be used on it.

    Raised before any content, or behind the end of an answer that is whole all the same. `reason`
    is a word or two for the record and the metrics, never the upstream's own.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Bill:
    """What a probe has cost so far, in tokens as the upstream counts them."""

    tokens: int = 0

    def may(self, tokens: int) -> None:
        """Raises Surprise if so many more would be too many."""
        if self.tokens + tokens > MOST_PROBE_TOKENS:
            raise Surprise("probe-too-dear")


class Strategy(Protocol):
    """One rung over one upstream. Long-lived; an answer's state is born in `events`."""

    name: ClassVar[str]

    def declines(self, request: ChatRequest) -> str:
        """Why this request is none for it, in a word; "" if it is one. Cheap and pure."""

    async def version(self) -> str:
        """What the upstream's proof hangs on, found out for nothing. Raises TandemError."""

    async def probe(self, bill: Bill) -> None:
        """Try the upstream, with words of our own. Raises Surprise, and TandemError where nothing
        was learnt.
        """

    def events(self, request: ChatRequest, call: Call) -> Events:
        """The target's answer. Raises Declined and Surprise, and TandemErrors as any backend."""
