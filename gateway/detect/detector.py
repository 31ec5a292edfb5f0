"""The detector of `privacy.detect`: what a request gives away decides how far it may travel.

    request ─▶ units (messages, tools, fields) ─▶ known by hash? ─▶ verdict
                                                        └─ no ─▶ scanned in a thread, hook asked

It only tightens. Whatever fails, comes late or cannot be read is treated as the tightest: a
detector that is not sure is not a reason to send something out. And it is never the only wall: it
finds what looks like a secret, not what is one (gateway/design.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, Protocol

from gateway.core.chat import ChatRequest
from gateway.core.routing import Zone
from gateway.detect.hook import HookFailed
from gateway.detect.patterns import Pattern
from gateway.detect.scan import scan
from gateway.detect.texts import is_opaque, text_of, units
from gateway.detect.verdicts import CLEAN, Verdict, Verdicts, serialised
from gateway.privacy import FAILED, HOOK, NOTHING, OPAQUE, Findings

logger = logging.getLogger("tandem.detect")

INLINE_BYTES = 2048
"""So much is scanned at once, in 100 us at most. More goes to a thread, which takes as long."""
THREADS = 2
MAX_UNITS = 100_000


class Hooked(Protocol):
    """Somebody else's detector (hook.py)."""

    async def __call__(self, texts: Sequence[str]) -> Sequence[Zone]: ...

    async def aclose(self) -> None: ...


class PatternDetector:
    """Patterns, a hook, or both. Lives as long as its configuration.

    `zones` says how far each kind that is found may travel, `opaque` the same of what is no text.
    `timeout_s` bounds the whole look at one request.
    """

    def __init__(
        self,
        patterns: Mapping[str, tuple[Pattern, ...]],
        zones: Mapping[str, Zone],
        *,
        opaque: Zone = Zone.MACHINE,
        hook: Hooked | None = None,
        timeout_s: float = 2.0,
    ) -> None:
        self._patterns = patterns
        self._zones = {**zones, OPAQUE: opaque}
        self._hook = hook
        self._timeout_s = timeout_s
        self.verdicts = Verdicts()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="detector")

    async def look(self, request: ChatRequest, *, keep: bool = True) -> Findings:
        """What the request gives away. Never raises; `keep=False` leaves no trace of the look."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._look(request, keep)
        except (TimeoutError, HookFailed) as error:
            logger.warning("the privacy detector gave no verdict: %s", _why(error))
        except Exception:  # outermost: an error of ours must not open a door
            logger.exception("the privacy detector failed")
        return Findings(zone=Zone.MACHINE, kinds=(FAILED,))

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._hook is not None:
            await self._hook.aclose()

    async def _look(self, request: ChatRequest, keep: bool) -> Findings:
        kinds: set[str] = set()
        hook = Zone.PUBLIC
        if is_opaque(request):
            kinds.add(OPAQUE)
        unknown: list[tuple[bytes, Any]] = []
        size = 0
        parts = units(request)
        if len(parts) > MAX_UNITS:
            raise HookFailed("too many parts")
        for unit in parts:
            raw = serialised(unit)
            digest = self.verdicts.digest(raw)
            verdict = self.verdicts.get(digest)
            if verdict is None:
                unknown.append((digest, unit))
                size += len(raw)
            elif verdict is not CLEAN:
                kinds.update(verdict.kinds)
                hook = min(hook, verdict.hook)
        if unknown:
            for (digest, _), verdict in zip(unknown, await self._read(unknown, size), strict=True):
                kinds.update(verdict.kinds)
                hook = min(hook, verdict.hook)
                if keep:
                    self.verdicts.put(digest, verdict)
        return self._findings(kinds, hook)

    async def _read(self, unknown: list[tuple[bytes, Any]], size: int) -> list[Verdict]:
        given_up = Event()

        def read() -> list[tuple[str, tuple[str, ...]]]:
            read: list[tuple[str, tuple[str, ...]]] = []
            for _, unit in unknown:
                text, opaque = text_of(unit)
                kinds = scan(text, self._patterns, given_up.is_set)
                read.append((text, (*kinds, OPAQUE) if opaque else kinds))
            return read

        try:
            if size <= INLINE_BYTES:
                texts = read()
            else:
                loop = asyncio.get_running_loop()
                texts = await loop.run_in_executor(self._threads, read)
        finally:
            given_up.set()
        if self._hook is None:
            return [Verdict(kinds) if kinds else CLEAN for _, kinds in texts]
        allowed = await self._hook([text for text, _ in texts])
        return [
            Verdict(kinds, zone) if kinds or zone < Zone.PUBLIC else CLEAN
            for (_, kinds), zone in zip(texts, allowed, strict=True)
        ]

    def _findings(self, kinds: set[str], hook: Zone) -> Findings:
        if not kinds and hook is Zone.PUBLIC:
            return NOTHING
        zone = min([hook, *(self._zones[kind] for kind in kinds)])
        # What the operator lets out is no finding of note.
        told = sorted(kind for kind in kinds if self._zones[kind] < Zone.PUBLIC)
        if hook < Zone.PUBLIC:
            told.append(HOOK)
        return Findings(zone=zone, kinds=tuple(told))


def _why(error: BaseException) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else str(error)
