"""Answers kept in Redis, where all replicas find them; dead or hung, it costs next to nothing.

redis-py's defaults would hold a request up for 3 s (port closed) to 10 s (server hung), so every
step has a short timeout, nothing is retried, and after a failure Redis is left alone for a while.
Machine-zone answers are never sent here. Values are authenticated (codec.py); with no configured
secret each process makes its own, and then replicas share nothing: better than trusting whoever
can write to the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.cache import codec
from gateway.cache.base import Entry
from gateway.cache.key import LOCAL_ONLY
from gateway.cache.memory import DEFAULT_ENTRY_BYTES, DEFAULT_TTL_S

logger = logging.getLogger("tandem.cache")

PREFIX = "tandem:c:"
TIMEOUT_S = 0.05
_STEPS = 4
"""Timeouts are per step (wait for a connection, connect, handshake, answer); all of a call's steps
together end here. One bound for the whole would never let a slow handshake finish."""

REST_S = 2.0
"""How long Redis is left alone after a failure. Then one request at most pays for the probe."""

_FAILURES = (RedisError, OSError, TimeoutError)


class RedisCache:
    """The second level of the exact cache. Never raises; out of reach it misses.

    Raises ValueError for a malformed URL, at construction. `secret` must be the same on all
    replicas that are to share answers.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
        max_entry_bytes: int = DEFAULT_ENTRY_BYTES,
        timeout_s: float = TIMEOUT_S,
        max_connections: int = 32,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_entry_bytes = max_entry_bytes
        self._limit_s = timeout_s * _STEPS
        self._wall = wall
        self._clock = clock
        if not secret:
            logger.info("no cache secret is configured: kept answers are not shared in Redis")
        material = secret.encode() if secret else secrets.token_bytes(32)
        self._secret = hashlib.sha256(b"tandem cache 1:" + material).digest()
        # Replicas with different secrets keep apart instead of overwriting each other's entries.
        self._prefix = f"{PREFIX}{hashlib.sha256(self._secret).hexdigest()[:8]}:"
        # A URL may carry options of its own; those that keep us safe win over it.
        options: dict[str, Any] = {
            **parse_url(url),
            "timeout": timeout_s,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": max_connections,
            "health_check_interval": 0,
            "decode_responses": False,
            "protocol": 2,  # its handshake is shorter, and we use nothing of RESP 3
        }
        self._pool = BlockingConnectionPool(**options)
        self._redis = Redis.from_pool(self._pool)

        self.up = True
        """Whether the last call reached Redis."""
        self.errors = 0
        self.rejected = 0
        """Values found under our keys that were not authentic or not readable."""
        self._resting_until = 0.0

    async def get(self, key: str) -> Entry | None:
        """The entry, or None when absent, expired, not authentic or out of reach."""
        if key.startswith(LOCAL_ONLY) or self._resting():
            return None
        try:
            async with asyncio.timeout(self._limit_s):
                value = cast("bytes | None", await self._redis.get(self._prefix + key))
        except _FAILURES as error:
            self._failed(error)
            return None
        self._reached()
        if value is None:
            return None
        try:
            payload = codec.unseal(value, key=key, secret=self._secret, limit=self._max_entry_bytes)
            entry = codec.decode(payload)
        except codec.Corrupt:
            self.rejected += 1
            return None
        return entry if self._left_s(entry) > 0 else None

    async def put(self, key: str, entry: Entry) -> bool:
        """Keep an entry; False if it may not leave, is too large, or Redis is out of reach."""
        left_ms = int(self._left_s(entry) * 1000)
        if key.startswith(LOCAL_ONLY) or left_ms <= 0:
            return False
        try:
            payload = codec.encode(entry)
        except codec.Corrupt:
            return False
        if len(payload) > self._max_entry_bytes or self._resting():
            return False
        value = codec.seal(payload, key=key, secret=self._secret)
        try:
            async with asyncio.timeout(self._limit_s):
                await self._redis.set(self._prefix + key, value, px=left_ms)
        except _FAILURES as error:
            self._failed(error)
            return False
        self._reached()
        return True

    async def aclose(self) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await self._redis.aclose()
                await self._pool.aclose()
        except _FAILURES:
            pass  # closing a connection that is already dead

    def _left_s(self, entry: Entry) -> float:
        return entry.stored_at + self._ttl_s - self._wall()

    def _resting(self) -> bool:
        """Whether to leave Redis alone. Once a rest ends, its first caller probes for everyone."""
        if self.up:
            return False
        now = self._clock()
        if now < self._resting_until:
            return True
        self._resting_until = now + REST_S
        return False

    def _reached(self) -> None:
        if not self.up:
            logger.info("redis is back")
        self.up = True

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if self.up:
            # The class only: redis-py's messages can quote the URL.
            logger.warning("redis is out of reach: %s", type(error).__name__)
        self.up = False
        self._resting_until = self._clock() + REST_S
