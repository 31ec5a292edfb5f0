"""What was found in a text before, by a salted hash of it: a conversation is read once, not each
turn. Nothing of a text can be told from what is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.routing import Zone

KEPT = 65_536
"""Verdicts; about 150 bytes each."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kinds that one text has, and how far the hook lets it travel."""

    kinds: tuple[str, ...] = ()
    hook: Zone = Zone.PUBLIC


CLEAN = Verdict()


class Verdicts:
    """The last `capacity` verdicts; those not asked for longest go first."""

    def __init__(self, capacity: int = KEPT) -> None:
        self._salt = os.urandom(32)
        self._capacity = capacity
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def digest(self, serialised: bytes) -> bytes:
        return hashlib.blake2b(serialised, digest_size=16, key=self._salt).digest()

    def get(self, digest: bytes) -> Verdict | None:
        verdict = self._known.get(digest)
        if verdict is not None:
            self._known.move_to_end(digest)
        return verdict

    def put(self, digest: bytes, verdict: Verdict) -> None:
        self._known[digest] = verdict
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)


def serialised(unit: Any) -> bytes:
    """A unit as bytes: equal ones for equal units."""
    try:
        return orjson.dumps(unit)
    except (orjson.JSONEncodeError, TypeError):  # a lone surrogate, an integer beyond 64 bits
        return json.dumps(unit).encode()
