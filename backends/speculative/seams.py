"""What a session needs of the engines and the socket around it, and nothing else of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backends.engine.prompts import Guide, Vocabulary
from backends.engine.protocol import Job, Output, Ready, Role
from backends.speculative.session import Message
from gateway.core.chat import ChatRequest, Usage
from gateway.core.exchange import Caller
from gateway.core.routing import Upstream


class Running(Protocol):
    """A sequence of the engine, as a session uses it. Closing it frees its cells."""

    def __aiter__(self) -> AsyncIterator[Output]: ...

    def draft(self, epoch: int, base: int, tokens: Sequence[int]) -> None: ...

    def sync(self, epoch: int, base: int, tokens: Sequence[int]) -> None: ...

    def hold(self, on: bool) -> None: ...

    async def aclose(self) -> None: ...


class Engine(Protocol):
    """A worker that runs sequences."""

    async def submit(self, job: Job) -> Running:
        """Raises a TandemError if the worker cannot take it."""


class Tokenizer(Protocol):
    """A vocabulary at work, without its model: backends.engine.prompts."""

    async def plain(self, text: str, param: str) -> tuple[int, ...]:
        """A part of a text as ids: nothing is added, and nothing in it is a control token."""

    async def pieces(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        """The ids' bytes, b"" for control tokens."""


class Drafting(Protocol):
    """A local model that drafts token by token: LlamaCppBackend."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    @property
    def prompts(self) -> Tokenizer: ...


class VerifyEngine(Engine, Protocol):
    @property
    def ready(self) -> Ready | None: ...


class Target(Protocol):
    """A local model that can be asked for a target-role sequence: LlamaCppBackend."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def engine(self) -> VerifyEngine: ...

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    @property
    def prompts(self) -> Tokenizer: ...

    async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        """The prompt's ids. Raises RequestError for what the model cannot read."""

    async def guide(self, request: ChatRequest) -> Guide:
        """The form that the request asks of its answer. Raises InvalidRequest."""

    def job(
        self,
        request: ChatRequest,
        prompt: tuple[int, ...],
        *,
        tenant: str,
        role: Role,
        guide: Guide,
    ) -> Job:
        """What HTTP would submit for this request, but for the role."""


@runtime_checkable
class Speculates(Protocol):
    """A backend that knows what drafting brings."""

    @property
    def gain(self) -> float | None:
        """How many times faster than the target alone it is expected to be; None: not known."""


class Gone(Exception):
    """The socket is no more. `left`: the other side closed it in good order, it did not break."""

    def __init__(self, *, left: bool = False) -> None:
        super().__init__()
        self.left = left


class Channel(Protocol):
    """A session's socket, whatever carries it."""

    async def receive(self) -> Message:
        """The next message. Raises Gone, and MalformedMessage for what is none."""

    async def send(self, message: Message) -> None:
        """Raises Gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a session, for the record: no prompt, no text, no key.

    `outcome` is ok, cancelled, or the code of the failure. `drafts` is what they were made of, ""
    where the edge had no model.
    """

    session: str
    caller: Caller
    model: str
    outcome: str
    usage: Usage
    rounds: int
    drafted: int
    accepted: int
    seconds: float
    exactness: str = ""
    margin_min: float | None = None
    resumes: int = 0
    drafts: str = ""
