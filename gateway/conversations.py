"""Where each conversation was answered last, by a salted hash of how it began.

A conversation is its tenant, its zone, its system prompt and its first user turn. What a policy
makes of it is router_policies/sticky.py's.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from gateway.core.chat import ChatRequest
from gateway.core.routing import Zone

KEPT = 16_384
TTL_S = 3600.0
"""Providers and our own engine have forgotten a prefix by then."""


class Conversations:
    """The last `capacity` conversations and who answered them; the oldest go first."""

    def __init__(self, clock: Callable[[], float], capacity: int = KEPT) -> None:
        self._clock = clock
        self._capacity = capacity
        self._salt = os.urandom(32)
        self._last: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def of(self, request: ChatRequest, tenant: str, zone: Zone) -> Conversation | None:
        """The request's conversation; None for what is none. Changes nothing."""
        begin = [tenant, zone.label]
        for message in request.messages:
            if message.role in ("system", "developer", "user"):
                begin += (message.role, message.text)
            if message.role == "user":
                break
        else:
            return None
        text = "\0".join(begin).encode("utf-8", "replace")
        key = hashlib.blake2b(text, digest_size=16, key=self._salt).digest()
        return Conversation(self, key)

    def last(self, key: bytes) -> str | None:
        """The upstream of the last turn, if that was not too long ago."""
        upstream, at = self._last.get(key, ("", 0.0))
        return upstream if upstream and self._clock() - at < TTL_S else None

    def note(self, key: bytes, upstream: str) -> None:
        self._last[key] = upstream, self._clock()
        self._last.move_to_end(key)
        if len(self._last) > self._capacity:
            self._last.popitem(last=False)


class Conversation:
    """One of them, as a request holds it."""

    def __init__(self, among: Conversations, key: bytes) -> None:
        self._among = among
        self._key = key

    @property
    def last(self) -> str | None:
        return self._among.last(self._key)

    def served_by(self, upstream: str) -> None:
        """This turn was begun by that upstream. Dry runs never say so."""
        self._among.note(self._key, upstream)
