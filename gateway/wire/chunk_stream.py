"""An OpenAI stream, read: the bytes of its SSE frames to core events.

Most frames of a stream differ from the one before in their text alone. Such a frame is known by its
bytes and is not parsed: see `TextLane`, which says why that is exact. All others are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import orjson

from gateway.core.events import Event, ReasoningDelta, TextDelta
from gateway.wire.inline_reasoning import InlineReasoning
from gateway.wire.openai import ChunkReader
from gateway.wire.openai_errors import Reported, read_error
from gateway.wire.sse import DONE, SseDecoder, SseFrame
from gateway.wire.upstream_json import Malformed

# What a JSON string may hold between its quotes, short of \u escapes: half of a surrogate pair
# would be no text, so frames that have one are parsed.
_STRING = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+')
_PROBE = "tandem probes this place"
_ENDS = (b"\n\n", b"\r\n\r\n")
MAX_LESSONS = 4
"""Frames that are tried as a pattern. An upstream whose frames all differ is not worth more."""


class TextLane:
    """Frames that are known, byte for byte, but for the text in one place.

    Exact, because the pattern is a frame that was parsed, and a JSON string in place of a JSON
    string changes nothing else in what a document means. That the place is the text's was tried
    with a probe. So a frame that fits is well-formed, has this one event, no finish, no usage and
    no error, and joining texts and frames of several loses nothing.
    """

    def __init__(self, usage_paths: tuple[tuple[str, ...], ...]) -> None:
        self._usage_paths = usage_paths
        self._lessons = 0
        self._before = b""
        self._after = b""
        self._event: TextDelta | ReasoningDelta | None = None

    def learn(self, raw: bytes, events: list[Event]) -> None:
        """Take a parsed frame as the pattern, if it is fit for one."""
        event = events[0]
        if len(events) > 1 or not isinstance(event, TextDelta | ReasoningDelta) or not event.text:
            return
        if self._lessons == MAX_LESSONS or not raw.startswith(b"data: "):
            return
        text = event.text.encode("utf-8", "surrogatepass")
        if not raw.endswith(_ENDS) or _STRING.fullmatch(text) is None or b"\\" in text:
            return
        self._lessons += 1
        before, found, after = raw.partition(b':"' + text + b'"')
        if not found:
            before, found, after = raw.partition(b': "' + text + b'"')
        before, after = before + found.partition(b'"')[0] + b'"', b'"' + after
        tried = before.removeprefix(b"data: ") + _PROBE.encode() + after
        if b"\n" in tried.rstrip(b"\r\n") or b"\r" in tried.rstrip(b"\r\n"):
            return
        plain = replace(event, frame=None)
        try:
            if ChunkReader(self._usage_paths).read(tried) != [replace(plain, text=_PROBE)]:
                return
        except (Malformed, Reported):
            return
        self._before, self._after, self._event = before, after, plain

    def match(self, pending: bytearray, at: int, max_frame: int) -> tuple[int, list[bytes]]:
        """How far the frames from `at` on fit the pattern, and their texts, still escaped."""
        before, after = self._before, self._after
        texts: list[bytes] = []
        if self._event is None:
            return at, texts
        while pending.startswith(before, at):
            begin = at + len(before)
            found = _STRING.match(pending, begin)
            assert found is not None  # it matches the empty string
            end = found.end()
            del found  # it holds the buffer, which could not grow
            if end == begin or not pending.startswith(after, end):
                break
            if end + len(after) - at > max_frame:
                break
            texts.append(bytes(pending[begin:end]))
            at = end + len(after)
        return at, texts

    def one(self, part: bytes, max_frame: int, *, keep: bool) -> Event | None:
        """The event, if these bytes are just one frame that fits."""
        pattern, before, after = self._event, self._before, self._after
        if pattern is None or len(part) > max_frame:
            return None
        if not (part.startswith(before) and part.endswith(after)):
            return None
        begin, end = len(before), len(part) - len(after)
        if begin >= end or _STRING.fullmatch(part, begin, end) is None:
            return None
        text = part[begin:end]
        if b"\\" in text or not text.isascii():
            return self.event([text], part, keep=keep)
        return type(pattern)(
            text=text.decode(), choice=pattern.choice, frame=part if keep else None
        )

    def event(self, texts: list[bytes], frames: bytes, *, keep: bool) -> Event | None:
        """One event for all of these frames; None if they are not UTF-8 after all."""
        assert self._event is not None
        joined = texts[0] if len(texts) == 1 else b"".join(texts)
        try:
            if not joined.isascii():
                frames.decode()  # each frame on its own: a character may not begin in one's text
            text = joined.decode()
        except UnicodeDecodeError:
            return None
        if "\\" in text:
            text = orjson.loads(b'"' + joined + b'"')
        return type(self._event)(
            text=text, choice=self._event.choice, frame=frames if keep else None
        )


class ChunkStream:
    """One stream's bytes to events. `own_wire`: events carry the frames they came from.

    `thoughts` splits texts that hold the model's reasoning; frames that it changed are written
    anew, with all their other members.
    """

    def __init__(
        self,
        *,
        own_wire: bool,
        usage_paths: tuple[tuple[str, ...], ...] = (("usage",),),
        max_frame: int = 1 << 20,
        thoughts: InlineReasoning | None = None,
    ) -> None:
        self._own_wire = own_wire
        self._max_frame = max_frame
        self._thoughts = thoughts
        self._sse = SseDecoder(max_frame)
        self._reader = ChunkReader(usage_paths)
        self._lane = TextLane(usage_paths)
        self.done = False
        """The upstream has said [DONE]; what comes after it is not read."""

    @property
    def complete(self) -> bool:
        """Whether the answer has ended well, [DONE] or not."""
        # Some servers leave out the blank line after the very last event.
        return self.done or self._reader.complete or self._sse.rest.strip() == b"data: " + DONE

    def read_one(self, part: bytes) -> Event | None:
        """The event, if these bytes are just one frame of a kind that is known: how most of a slow
        stream comes. None: nothing was read, and `read` has to.
        """
        if self._sse.pending:
            return None
        return self._lane.one(part, self._max_frame, keep=self._own_wire)

    def read(self, part: bytes) -> Iterator[Event]:
        """The events that these bytes complete, each as soon as it is asked for.

        Raises FrameTooLarge, Malformed and Reported, after the events before.
        """
        self._sse.add(part)
        while not self.done:
            event = self._sse.take_known(self._known)
            if event is not None:
                yield event
                continue
            frame = self._sse.take()
            if frame is None:
                return
            yield from self._parsed(frame)

    def _known(self, pending: bytearray, at: int, max_frame: int) -> tuple[int, Event | None]:
        end, texts = self._lane.match(pending, at, max_frame)
        if not texts:
            return at, None
        return end, self._lane.event(texts, bytes(pending[at:end]), keep=self._own_wire)

    def _parsed(self, frame: SseFrame) -> list[Event]:
        if not frame.data:
            return []  # a comment: the gateway sends its own; or nothing, which is no event either
        if frame.data.startswith(DONE):  # as OpenAI's SDKs look at it: no JSON begins so
            self.done = True
            rest = self._thoughts.rest() if self._thoughts else None
            return self._events(rest, _framed(rest)) if rest else []
        if frame.event == "error":
            raise Reported(read_error(frame.data))
        split = self._thoughts.chunk(frame.data) if self._thoughts else None
        if split is not None:
            return self._events(split, _framed(split))
        events = self._events(frame.data, frame.raw)
        if self._thoughts is None or self._thoughts.settled:
            self._lane.learn(frame.raw, events)
        return events

    def _events(self, data: bytes, raw: bytes) -> list[Event]:
        return self._reader.read(data, raw if self._own_wire else None)


def _framed(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
