"""The contract of a dialect: bytes to ChatRequest, events to bytes. Pure, no HTTP objects.

To add one: a module with a class that has these members, and a line in `DIALECTS`. The round-trip
suite in tests/contracts then runs on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gateway.core.chat import ChatRequest, Completion
from gateway.core.errors import TandemError
from gateway.core.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What a dialect needs to know of the exchange to write its answer."""

    id: str
    created: int
    model: str
    ttft_s: float | None = None
    duration_s: float | None = None


class StreamEncoder(Protocol):
    """One answer's stream, event by event. Holds that answer's state and nothing else."""

    def encode(self, event: Event) -> bytes:
        """The wire bytes of an event; b"" when it has none."""

    def comment(self, text: str) -> bytes:
        """A line that clients skip: a heartbeat or the trace."""

    def error(self, error: TandemError) -> bytes:
        """A failure after the first byte. Nothing may follow it, and no end marker is faked."""

    def end(self) -> bytes:
        """The end marker of a stream that ended well."""


@runtime_checkable
class Dialect(Protocol):
    """One client wire."""

    name: str
    media_type: str
    stream_media_type: str

    def decode(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """The request in a parsed body. Raises InvalidRequest naming the parameter."""

    def encode(self, completion: Completion, answering: Answering, request: ChatRequest) -> bytes:
        """A whole answer."""

    def encoder(self, answering: Answering, request: ChatRequest) -> StreamEncoder:
        """A fresh encoder for one stream."""

    def error(self, error: TandemError) -> bytes:
        """A failure before the first byte, as a whole body."""
