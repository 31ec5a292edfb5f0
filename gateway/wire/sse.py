"""Server-sent events on the wire: bytes to frames, exactly, and frames to bytes.

Pure. `SseDecoder` cuts a byte stream into frames whose `raw` bytes, joined, are the stream as it
came: a relay can pass a frame on untouched whatever line endings the upstream prefers and however
the network has cut its bytes (operations.md 2.4, row 13).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
        self._searched = 0
        self._begun = False

    @property
    def rest(self) -> bytes:
        """What has come since the last whole frame. By the standard, never dispatched."""
        return bytes(self._pending)

    def feed(self, part: bytes) -> list[SseFrame]:
        """The frames that these bytes complete. Raises FrameTooLarge."""
        pending = self._pending
        pending += part
        frames: list[SseFrame] = []
        start = 0
        while True:
            # Blank lines before a frame belong to it and do not end it.
            begin = start
            while begin < len(pending) and pending[begin] in b"\r\n":
                begin += 1
            end = _BLANK_LINE.search(pending, max(begin, self._searched))
            if end is None:
                break
            if end.end() - start > self._max_frame:
                raise FrameTooLarge(f"an event of more than {self._max_frame} bytes")
            frames.append(self._frame(bytes(pending[start : end.end()])))
            start = self._searched = end.end()
        del pending[:start]
        if len(pending) > self._max_frame:
            raise FrameTooLarge(f"an event of more than {self._max_frame} bytes")
        self._searched = max(0, len(pending) - _LOOK_BACK)
        return frames

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
