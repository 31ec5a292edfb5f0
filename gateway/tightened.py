"""A conversation once tightened stays so, also when its next turn has lost what tightened it.

A header may be forgotten, a tool dropped, a long history cut at its end: whatever begins with the
messages of a request that was kept in, and goes on, is kept in too. Only salted hashes are kept.
Two conversations of one key that begin alike cannot be told apart; then both are kept in.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator

from gateway.core.chat import ChatRequest
from gateway.core.exchange import Caller
from gateway.core.routing import Zone

KEPT = 16_384
TTL_S = 4 * 3600.0


class Tightened:
    """The last `capacity` conversations that were kept in. Outlives a reload, which widens nothing.

    As long as there are none, asking costs nothing.
    """

    def __init__(self, clock: Callable[[], float], capacity: int = KEPT) -> None:
        self._clock = clock
        self._capacity = capacity
        self._salt = os.urandom(32)
        self._zones: OrderedDict[bytes, tuple[Zone, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._zones)

    def zone(self, request: ChatRequest, caller: Caller) -> Zone | None:
        """The tightest zone of what the request goes on with; None if it goes on with nothing."""
        if not self._zones or len(request.messages) < 2:
            return None
        now = self._clock()
        found: list[Zone] = []
        for count, digest in enumerate(self._beginnings(request, caller), 1):
            zone, at = self._zones.get(digest, (Zone.PUBLIC, 0.0))
            # The same messages and no more are a question asked again, not one gone on with.
            if zone < Zone.PUBLIC and now - at < TTL_S and count < len(request.messages):
                found.append(zone)
        return min(found, default=None)

    def note(self, request: ChatRequest, caller: Caller, zone: Zone) -> None:
        """This request was kept in that zone."""
        if not request.messages:
            return
        *_, digest = self._beginnings(request, caller)
        self._zones[digest] = zone, self._clock()
        self._zones.move_to_end(digest)
        if len(self._zones) > self._capacity:
            self._zones.popitem(last=False)

    def _beginnings(self, request: ChatRequest, caller: Caller) -> Iterator[bytes]:
        """A hash for each beginning of the conversation: its first message, its first two, …"""
        chain = hashlib.blake2b(digest_size=16, key=self._salt)
        chain.update(f"{caller.tenant}\0{caller.key_id}".encode())
        for message in request.messages:
            text = message.text.encode("utf-8", "replace")
            chain.update(f"\0{message.role}\0{len(text)}\0".encode("utf-8", "replace"))
            chain.update(text)
            yield chain.copy().digest()
