"""One request on its way: who asks, what became of it, and the record it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from gateway.core.chat import ChatRequest, Endpoint, Priority, Usage
from gateway.core.lean import lean
from gateway.core.routing import Route, Tier, Upstream, Zone
from gateway.core.sink import Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request. `key_id` is the first 8 hex digits of the key's digest, "" without keys.

    `models` is what the key may ask for; None means everything.
    """

    tenant: str = "default"
    key_id: str = ""
    zone: Zone = Zone.PUBLIC
    models: frozenset[str] | None = None

    def may_name(self, model: str) -> bool:
        """Whether it may ask for that model. To others it looks as one that does not exist."""
        return self.models is None or model in self.models


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a backend needs to know of the request around the ChatRequest.

    `zone` is the widest zone the content may reach; every client checks it once more before it
    opens a connection. `deadline` is on the monotonic clock, in seconds.
    """

    id: str
    tenant: str = "default"
    zone: Zone = Zone.PUBLIC
    deadline: float | None = None
    priority: Priority = Priority.CHAT


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request in flight. Born in the server, dies with its response.

    `zone`, what the privacy detector `found` and the rules that only looked on (`observed`) are
    known once it has been classified.
    """

    id: str
    caller: Caller
    request: ChatRequest
    arrived: float
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    zone: Zone | None = None
    found: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()

    @property
    def priority(self) -> Priority:
        """Batch where the client says so, by our header or OpenAI's `service_tier`."""
        said = self.headers.get("x-tandem-priority", "").strip().lower()
        if said == "batch" or self.request.body.get("service_tier") == "flex":
            return Priority.BATCH
        # Texts to embed come from indexers and searches: nobody is typing, as for a completion.
        patient = self.request.endpoint in (Endpoint.CHAT, Endpoint.EMBEDDINGS)
        return Priority.CHAT if patient else Priority.COMPLETION


class Events(Protocol):
    """An answer's events, once."""

    async def into(self, sink: Sink) -> None:
        """Put them all into a sink. Raises a TandemError where the answer ends before its end."""

    async def aclose(self) -> None:
        """On every exit. Stops the upstream's work if there is any left."""


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the pipeline hands back once: the plan, then the events. The server closes `events`."""

    route: Route
    tier: Tier
    upstream: str
    events: Events
    record: RecordDraft


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One try at one upstream: how long it took and how it ended ("ok" or an error kind)."""

    upstream: str
    result: str
    seconds: float


@dataclass(slots=True, kw_only=True)
class RecordDraft:
    """A record while its request is still in flight; `freeze` ends it.

    Times are seconds; `ttft_s` counts from arrival to the first content. `avoided_usd` is what a
    cache hit saved; `cost_estimated` says that it rests on guessed tokens or joules; `ignored` are
    request fields that did not reach the model or do nothing there. `found` are the kinds of
    private data that its detector saw; `others` are those that could have answered, if there was a
    choice, in the route's order; `observed` are rules that would have matched. `strategy`: how the
    answer was begun, where drafts are used; `approximate`: it need not be the model's own.
    `continued`: so
    often somebody else went on with an answer that was cut.
    """

    id: str
    endpoint: str
    model: str
    stream: bool
    tenant: str
    key_id: str
    zone: str
    created: float = 0.0
    upstream: str = ""
    upstream_model: str = ""
    tier: Tier = Tier.NONE
    reason: str = "none"
    rule: str | None = None
    score: float | None = None
    balance: str = "only"
    cache: str = "bypass"
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = Usage()
    continued: int = 0
    approximate: bool = False
    finish_reason: str | None = None
    outcome: str = "internal"
    error: str | None = None
    status: int = 200
    decide_s: float | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    inter_token_s: float | None = None
    cost_usd: float | None = None
    cost_known: bool = False
    cost_estimated: bool = False
    energy_j: float | None = None
    energy_estimated: bool = True
    avoided_usd: float | None = None
    ignored: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    others: tuple[Upstream, ...] = ()
    observed: tuple[str, ...] = ()
    strategy: str = ""
    speculation: dict[str, Any] | None = None
    cascade: dict[str, Any] | None = None

    def freeze(self) -> ExchangeRecord:
        return ExchangeRecord._make(_VALUES(self))


class ExchangeRecord(NamedTuple):
    """What happened, once, for everyone who wants to know: metrics, log, request page, router.

    Holds no prompt, no answer, no header and no key. A tuple, because one of so many fields is made
    five times as fast as a frozen dataclass.
    """

    id: str
    endpoint: str
    model: str
    stream: bool
    tenant: str
    key_id: str
    zone: str
    created: float
    upstream: str
    upstream_model: str
    tier: Tier
    reason: str
    rule: str | None
    score: float | None
    balance: str
    cache: str
    attempts: tuple[Attempt, ...]
    usage: Usage
    continued: int
    approximate: bool
    finish_reason: str | None
    outcome: str
    error: str | None
    status: int
    decide_s: float | None
    ttft_s: float | None
    duration_s: float
    inter_token_s: float | None
    cost_usd: float | None
    cost_known: bool
    cost_estimated: bool
    energy_j: float | None
    energy_estimated: bool
    avoided_usd: float | None
    ignored: tuple[str, ...]
    found: tuple[str, ...]
    others: tuple[Upstream, ...]
    observed: tuple[str, ...]
    speculation: dict[str, Any] | None
    cascade: dict[str, Any] | None


_VALUES = attrgetter(*ExchangeRecord._fields)
