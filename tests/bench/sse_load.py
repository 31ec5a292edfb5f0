"""A cheap client: many streamed completions at once over plain sockets, counted when they end.

It runs beside what it measures, so it only reads bytes; it looks at them afterwards.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

FINISH = re.compile(rb'"finish_reason": ?"(\w+)"')


class AnswerCut(Exception):
    """A stream did not end with `length`: then its tokens were not those that were asked for."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What one answer was on the wire. `events` with content; coalesced tokens count once."""

    events: int
    bytes: int
    text: str


async def stream(base_url: str, body: dict[str, object]) -> Streamed:
    """POST /v1/completions with `stream` and read to the end. Raises AnswerCut."""
    raw = await _exchange(base_url, {**body, "stream": True})
    found = FINISH.search(raw)
    if found is None or found[1] != b"length":
        raise AnswerCut(raw[-400:].decode("utf-8", "replace"))
    events, text = 0, ""
    for line in raw.split(b"data: ")[1:]:
        try:
            event = json.loads(line.split(b"\n", 1)[0])
        except ValueError:
            continue  # [DONE]
        for choice in event.get("choices", ()):
            if choice.get("text"):
                events += 1
                text += choice["text"]
    return Streamed(events=events, bytes=len(raw), text=text)


async def streams(base_url: str, bodies: list[dict[str, object]]) -> list[Streamed]:
    return list(await asyncio.gather(*(stream(base_url, body) for body in bodies)))


async def begin(base_url: str, body: dict[str, object]) -> asyncio.StreamWriter:
    """Start a stream and read its first content; closing the writer is leaving."""
    reader, writer = await _ask(base_url, {**body, "stream": True})
    seen = b""
    while seen.count(b"data: ") < 2:
        more = await reader.read(65536)
        if not more:
            raise AnswerCut(seen[-400:].decode("utf-8", "replace"))
        seen += more
    return writer


async def _exchange(base_url: str, body: dict[str, object]) -> bytes:
    reader, writer = await _ask(base_url, body)
    parts = []
    try:
        while part := await reader.read(65536):
            parts.append(part)
    finally:
        writer.close()
    return _unchunked(b"".join(parts))


async def _ask(
    base_url: str, body: dict[str, object]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    return reader, writer


def _unchunked(raw: bytes) -> bytes:
    """The body; chunk borders are taken out, since an event may lie across one."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body)
