"""An upstream's documents as they are: what speculation must ask and no ChatRequest can say.

The same door as every answer's: zone check, clocks, size caps and error mapping are its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
import orjson

from backends.http import HttpUpstream
from gateway.core.exchange import Call
from gateway.wire.openai_errors import error_of
from gateway.wire.sse import DONE, FrameTooLarge, SseDecoder
from gateway.wire.upstream_json import Malformed, parse_object


class RawDoor:
    """Paths with a leading slash are the server's own, others the API's below `v1/`."""

    def __init__(self, http: HttpUpstream, *, root: httpx.URL, api: httpx.URL) -> None:
        self._http = http
        self._root = root
        self._api = api

    async def look(self, path: str, timeout_s: float) -> dict[str, Any]:
        """A GET's document, {} if there is none at that path. Raises UpstreamError."""
        status, body = await self._http.get(self._url(path), timeout_s)
        if status != httpx.codes.OK:
            return {}
        try:
            return parse_object(body)
        except Malformed:
            return {}

    async def ask(self, path: str, body: Mapping[str, Any], call: Call) -> dict[str, Any]:
        """A POST's document. Raises LocalUnavailable and the UpstreamErrors of any answer."""
        clock = self._http.clock(call, streaming=False)
        sent = orjson.dumps(dict(body))
        to = self._http.target(self._url(path))
        answer = await self._http.post(to, sent, call, clock, expect="application/json")
        try:
            return self._checked(await self._http.read(answer, clock))
        finally:
            await self._http.close(answer, clock)

    async def chunks(
        self, path: str, body: Mapping[str, Any], call: Call
    ) -> AsyncGenerator[dict[str, Any], None]:
        """A POST's stream, document by document, up to [DONE]. Raises as `ask` does."""
        clock = self._http.clock(call, streaming=True)
        sent = orjson.dumps({**body, "stream": True})
        to = self._http.target(self._url(path))
        answer = await self._http.post(to, sent, call, clock, expect="text/event-stream")
        decoder = SseDecoder()
        try:
            while part := await self._http.part(answer, clock):
                for frame in self._frames(decoder, part):
                    if frame == DONE:
                        await self._http.drain(answer, clock)
                        return
                    yield self._checked(frame)
                    clock.restart()
        finally:
            await self._http.close(answer, clock)

    def _url(self, path: str) -> httpx.URL:
        return self._root.join(path[1:]) if path.startswith("/") else self._api.join(path)

    def _frames(self, decoder: SseDecoder, part: bytes) -> list[bytes]:
        try:
            return [frame.data for frame in decoder.feed(part) if frame.data is not None]
        except FrameTooLarge as error:
            raise self._http.broken(f"sent {error}", code="upstream_too_large") from None

    def _checked(self, raw: bytes) -> dict[str, Any]:
        try:
            document = parse_object(raw)
        except Malformed as error:
            raise self._http.broken(f"sent a malformed answer: {error}") from None
        if (reported := error_of(document)) is not None:
            raise self._http.reported(reported)
        return document
