"""The contract between the gateway and whatever generates text.

To add a backend: write one module with a class that satisfies `Backend` and an `Options` model of
its own, and add its line to `BACKENDS`. The contract suite in tests/contracts then runs on it.
What wraps other backends (speculation, race, cascade) is a Backend too; it names the upstreams it
is made of in `parts`, gets them ready-built through `Resources`, and does not close them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from backends.engine.pool import ModelPool
from gateway.core.chat import ChatRequest
from gateway.core.events import Event
from gateway.core.exchange import Call
from gateway.core.routing import Price, Tier, Upstream, Zone, as_of_date


def _zone(value: object) -> object:
    names = {zone.label: zone for zone in Zone}
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, Zone):
        return value
    raise ValueError(f"a zone is one of {', '.join(names)}")


def _as_of(value: object) -> object:
    if isinstance(value, date):  # YAML reads a whole day as one
        value = value.isoformat()
    if isinstance(value, str) and value:
        as_of_date(value)
    return value


ZoneName = Annotated[Zone, BeforeValidator(_zone)]


Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriceOptions(BaseModel):
    """What an upstream costs, as an operator writes it, in one of three forms.

    `input` and `output` (and `cached_input`) in USD per million tokens; `flat: true` for what is
    paid anyway, so that an answer adds nothing; or `electricity` in USD per kilowatt-hour, for a
    machine of one's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Usd | None = None
    output: Usd | None = None
    cached_input: Usd | None = None
    flat: Literal[True] | None = None
    electricity: Usd | None = None
    as_of: Annotated[str, BeforeValidator(_as_of)] = ""

    @model_validator(mode="after")
    def _one_form(self) -> PriceOptions:
        tokens = {self.input, self.output, self.cached_input} != {None}
        if [tokens, self.flat is not None, self.electricity is not None].count(True) != 1:
            raise ValueError("a price has input and output, or flat: true, or electricity")
        if tokens and (self.input is None or self.output is None):
            raise ValueError("a price per token needs both input and output")
        return self

    def price(self) -> Price:
        return Price(
            input=self.input or 0.0,
            output=self.output or 0.0,
            cached_input=self.cached_input,
            kwh=self.electricity,
            as_of=self.as_of,
        )


class Options(BaseModel):
    """What every upstream's config entry may say; each backend adds its own fields.

    `zone` is public unless configured, never inferred from an address (DESIGN 2.3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    approximate: ClassVar[bool] = False
    """Whether its answers may differ from what its model would have said (DESIGN 2.5)."""

    kind: str
    zone: ZoneName = Zone.PUBLIC
    tier: Literal["local", "cloud"] | None = None
    context: int | None = None
    price: PriceOptions | None = None
    watts: float | None = None

    def tier_or_default(self) -> Tier:
        """local for kind llama_cpp and for zone machine, else cloud, unless set (DESIGN 8)."""
        if self.tier is not None:
            return Tier(self.tier)
        local = self.kind == "llama_cpp" or self.zone == Zone.MACHINE
        return Tier.LOCAL if local else Tier.CLOUD

    def price_or_listed(self) -> Price | None:
        """The operator's price; a backend that knows list prices adds them."""
        return self.price.price() if self.price else None

    def says_cost(self) -> bool:
        """Whether the upstream's answers say themselves what they cost."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the composition root lends to backends. `backends` holds the parts, already built.

    `transport` makes the httpx transport that all egress goes through; a test puts a MockTransport
    there. `model_dir` is where a relative GGUF path is looked for. `pool` is the memory that local
    models share. `clock` is monotonic, in seconds, and the one that a `Call`'s deadline is of.
    """

    backends: Mapping[str, Backend] = field(default_factory=dict)
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None
    model_dir: Path = Path("models")
    threads: int | None = None
    pool: ModelPool | None = None
    clock: Callable[[], float] = time.monotonic


def part_of(backends: Mapping[str, Backend], part: str, whole: str) -> Backend:
    """A part of a combined backend. Raises ValueError if nobody built it."""
    if part not in backends:
        raise ValueError(f"upstream {whole!r}: there is no upstream {part!r}")
    return backends[part]


@runtime_checkable
class Choosy(Protocol):
    """A combined backend's class that does not take any part for any role."""

    @classmethod
    def misfits(
        cls, options: Options, upstreams: Mapping[str, Options]
    ) -> Iterator[tuple[str, str]]:
        """(the key of its entry that names a wrong part, what is wrong with it)

        `upstreams` has all that are well-formed; a part that is not among them is another's flaw.
        """


@runtime_checkable
class Queues(Protocol):
    """A backend whose requests may have to wait here, before anybody computes for them."""

    @property
    def wait_s(self) -> float:
        """Seconds that a request which came now would wait for its turn; 0 where it need not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether an upstream can serve now; `detail` is for an operator's eyes."""

    ok: bool
    detail: str = ""


@runtime_checkable
class Backend(Protocol):
    """Something that answers requests as a stream of core events."""

    options_model: ClassVar[type[Options]]
    """What its config entry may say. It is built as `Class(name, options, resources)`."""

    @property
    def upstream(self) -> Upstream:
        """What routing may know; may grow more exact once `start` has run."""

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        """Names of the upstreams this one is made of; () for most."""

    async def start(self) -> None:
        """Become ready. Must not raise for an upstream that is merely down: `health` says so."""

    def stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[Event, None]:
        """Answer one request. Every failure is raised as a TandemError.

        Events come as the upstream says them; a well-ended answer has a Finish for each choice
        (or is one Document, when `request.stream` is false and the upstream sent it whole), and
        usage if it is known. The caller closes the generator on every exit; closing it stops the
        work upstream (DESIGN 2.6).

        After the first event the caller may `asend` a Sink (core/sink.py) instead of asking for the
        next. The generator may ignore that, or put all further events there and then end.
        """

    async def count(self, request: ChatRequest) -> int | None:
        """Exact prompt tokens by the model's own tokenizer and template; None if unknown.

        Of texts to embed, those of the longest: each has the context for itself.
        A number beyond the context need not be exact, only not too high.
        """

    async def health(self) -> Health:
        """A cheap look, no tokens spent."""

    async def aclose(self) -> None:
        """Stop everything this backend started: processes, connections, tasks."""
