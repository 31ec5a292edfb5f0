"""Server-sent events on the wire: bytes to frames, exactly, and frames to bytes.

Pure. `SseDecoder` cuts a byte stream into frames whose `raw` bytes, joined, are the stream as it
came: a relay can pass a frame on untouched whatever line endings the upstream prefers and however
the network has cut its bytes (operations.md 2.4, row 13).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.events import Event

Known: TypeAlias = Callable[[bytearray, int, int], tuple[int, Event | None]]

DONE = b"[DONE]"
"""The data of the frame that ends an OpenAI stream."""

# A blank line ends a frame. Lines end in \n, \r\n or \r, and a \r that ends a read may still turn
# out to be half of a \r\n; only "\r\r" is cut without waiting, because a stream of bare \r would
# otherwise lag one whole event behind. A \n after it is then one more blank line, which is nothing.
_BLANK_LINE = re.compile(rb"\n\n|\r\r|\n\r\n|\n\r(?=[^\n])")
_LOOK_BACK = 3
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """A frame is longer than its decoder allows, ended or not."""


@dataclass(frozen=True, slots=True)
class SseFrame:
    """One frame. `data` is None if it has no data line: a comment, a retry hint, an id."""

    raw: bytes
    data: bytes | None
    event: str = ""


class SseDecoder:
    """Cuts one stream into frames; holds at most `max_frame` bytes of an unfinished one."""

    def __init__(self, max_frame: int = 1 << 20) -> None:
        self._max_frame = max_frame
        self._pending = bytearray()
        self._at = 0
        self._searched = 0
        self._begun = False

    @property
    def rest(self) -> bytes:
        """What has come since the last whole frame. By the standard, never dispatched."""
        return bytes(self._pending[self._at :])

    @property
    def pending(self) -> bool:
        """Whether there is such a rest."""
        return len(self._pending) > self._at

    def feed(self, part: bytes) -> list[SseFrame]:
        """The frames that these bytes complete. Raises FrameTooLarge."""
        self.add(part)
        return list(iter(self.take, None))

    def add(self, part: bytes) -> None:
        """More of the stream."""
        if self._at:
            del self._pending[: self._at]
            self._searched = max(0, self._searched - self._at)
            self._at = 0
        self._pending += part

    def take(self) -> SseFrame | None:
        """The next whole frame, or None until more has come. Raises FrameTooLarge."""
        pending, start = self._pending, self._at
        # Blank lines before a frame belong to it and do not end it.
        begin = start
        while begin < len(pending) and pending[begin] in b"\r\n":
            begin += 1
        found = _BLANK_LINE.search(pending, max(begin, self._searched))
        end = found.end() if found is not None else len(pending)
        if end - start > self._max_frame:
            raise FrameTooLarge(f"an event of more than {self._max_frame} bytes")
        if found is None:
            self._searched = max(start, end - _LOOK_BACK)
            return None
        del found  # it holds the buffer, which could not grow
        self._at = self._searched = end
        return self._frame(bytes(pending[start:end]))

    def take_known(self, read: Known) -> Event | None:
        """What `read` makes of the bytes from the next frame's beginning on, and takes from them.

        `read` gets the buffer, where to begin and the longest frame allowed, and returns where the
        frames that it knows end. It may hold on to none of the buffer.
        """
        end, value = read(self._pending, self._at, self._max_frame)
        if value is not None:
            self._at = self._searched = end
            self._begun = True
        return value

    def _frame(self, raw: bytes) -> SseFrame:
        text = raw.removeprefix(_BOM) if not self._begun else raw
        self._begun = True
        if text.startswith(b"data: "):  # nearly always: one line of data
            line = text[6:].rstrip(b"\r\n")
            if b"\n" not in line and b"\r" not in line:
                return SseFrame(raw, line)
        data: list[bytes] = []
        event = b""
        for line in _LINE_END.split(text):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value
        joined = b"\n".join(data) if data else None
        return SseFrame(raw, joined, event.decode("utf-8", "replace"))


def encode_data(data: bytes) -> bytes:
    """A frame of one data line; `data` is compact JSON and so holds no line break."""
    return b"data: " + data + b"\n\n"


def encode_comment(text: str) -> bytes:
    """A frame that clients skip."""
    return b": " + text.replace("\r", " ").replace("\n", " ").encode() + b"\n\n"
