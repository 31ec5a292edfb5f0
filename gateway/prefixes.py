"""Which upstream has read which beginnings of prompts: chained hashes of their leading blocks.

A server keeps what it has computed for a prompt's beginning (vLLM's prefix cache, a provider's
prompt cache, our own engine's cells), so the next turn of a conversation is cheap where the last
one was. What is kept here are 64-bit hashes, chained from the first character on: a block's hash
stands for everything up to its end. They begin with a random salt, the tenant and the zone, so that
nobody can find out by trying whether somebody else has sent a text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import orjson

from gateway.core.chat import ChatRequest
from gateway.core.routing import Zone

CHARACTERS_PER_TOKEN = 4
BLOCK = 256
FINE = 4096
"""Up to here each block has 256 characters, behind it each ends an eighth further on: a long
conversation differs from its last turn at its end, and its hashing must not grow with it."""
LONGEST = 256 * 1024
HALF = 32_768
"""Hashes in a generation; two generations take about 8 MB."""
FORGET_S = 1800.0
"""A generation's age at most: a prefix is believed in for up to twice this. Providers forget
sooner or later than that; what they really kept, `pace.py` learns from their usage."""
HOLDERS = 8
"""Upstreams remembered for one prefix, the latest first."""


def _ends() -> tuple[int, ...]:
    ends = [BLOCK]
    while ends[-1] < LONGEST:
        last = ends[-1]
        ends.append(last + BLOCK if last < FINE else last + last // 8 // BLOCK * BLOCK)
    return tuple(ends)


ENDS = _ends()


class Prefix(NamedTuple):
    """A prompt's beginnings: the hash of each whole block, and how long all of it is in tokens.

    `unit` is the characters in a token, 1 where the prompt came as token ids.
    """

    hashes: tuple[int, ...]
    tokens: float
    unit: int


class Prefixes:
    """Two generations of block hash → upstreams. The young one becomes the old one when it is full
    or stale, and what is used again moves over, which is an LRU without its bookkeeping.
    """

    def __init__(self, *, half: int = HALF, forget_s: float = FORGET_S) -> None:
        self._salt = os.urandom(16)
        self._half = half
        self._forget_s = forget_s
        self._young: dict[int, tuple[str, ...]] = {}
        self._old: dict[int, tuple[str, ...]] = {}
        self._born = 0.0
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        """One tuple for all prefixes with the same holders."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def of(self, request: ChatRequest, tenant: str, zone: Zone) -> Prefix:
        """The beginnings of what a model will read, by tenant and zone."""
        text = _leading(request)
        tools = request.body.get("tools")
        listed = orjson.dumps(tools) if tools else b""
        state = hash((self._salt, tenant, int(zone), listed))
        size, begin, hashes = len(text), 0, []
        for end in takewhile(size.__ge__, ENDS):
            state = hash((state, text[begin:end]))
            hashes.append(state)
            begin = end
        unit = CHARACTERS_PER_TOKEN if isinstance(text, str) else 1
        return Prefix(tuple(hashes), (size + len(listed)) / unit, unit)

    def warm(self, prefix: Prefix) -> dict[str, float]:
        """How many leading tokens each upstream has read before; those with none are left out."""
        warm: dict[str, float] = {}
        young, old = self._young, self._old
        for at, state in enumerate(prefix.hashes):
            holders = young.get(state) or old.get(state)
            if holders is None:
                break
            for name in holders:
                warm[name] = ENDS[at] / prefix.unit
        return warm

    def place(self, prefix: Prefix, upstream: str, now: float) -> None:
        """That upstream has read this prompt."""
        if len(self._young) >= self._half or now - self._born > self._forget_s:
            # Twice the age with nothing in between: the old ones are stale as well.
            stale = now - self._born > 2 * self._forget_s
            self._old = {} if stale else self._young
            self._young, self._born = {}, now
        young, old = self._young, self._old
        for state in prefix.hashes:
            holders = young.get(state)
            if holders is None or holders[0] != upstream:
                holders = holders or old.get(state, ())
                others = tuple(name for name in holders if name != upstream)
                new = (upstream, *others[: HOLDERS - 1])
                young[state] = self._shared.setdefault(new, new)


def _leading(request: ChatRequest) -> str | Sequence[int]:
    """The first `LONGEST` characters of a prompt, in the order in which a model reads them."""
    if isinstance(request.prompt, tuple):
        return request.prompt[:LONGEST]
    parts: list[str] = []
    size = 0
    for snippet in request.snippets:
        parts += (snippet.filename, "\x1f", snippet.text, "\x1e")
    for message in request.messages:
        parts += (message.role, "\x1f", message.text, "\x1e")
        size += len(message.text)
        if size > LONGEST:
            break
    parts.append(request.prompt)
    return "".join(parts)[:LONGEST]
