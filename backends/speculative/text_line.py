"""What an edge of another vocabulary has drafted beyond a target's text: bytes on one line.

A position is a byte of the text as an edge sees it: a token's bytes that are no UTF-8 count as
U+FFFD does there. Text that agrees with what the target has said is cut off as that goes on; text
that does not takes all that follows it along, and raises the epoch.
"""

from __future__ import annotations

import codecs

MAX_LINE = 1024
"""Bytes beyond the target's text that are kept, and that a tokenizer is asked to read at once."""
KEPT = 4096
"""Bytes of the target's text that a late draft is still compared with."""


class TextLine:
    """One session's. `epoch` counts the texts that disagreed."""

    def __init__(self) -> None:
        self._said = bytearray()
        self._from = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = b""
        self._at = 0
        self.epoch = 0

    @property
    def end(self) -> int:
        """Bytes that the target has said, whole characters only."""
        return self._from + len(self._said)

    def commit(self, raw: bytes) -> None:
        """The target has said these bytes."""
        before = self.end
        self._said += self._utf8.decode(raw).encode()
        low, high = max(before, self._at), min(self.end, self._at + len(self._line))
        if low < high and self._line[low - self._at : high - self._at] != self._between(low, high):
            self._disagree()
        if len(self._said) > 2 * KEPT:
            self._from += len(self._said) - KEPT
            del self._said[:-KEPT]

    def put(self, epoch: int, base: int, text: bytes) -> bool:
        """Take a draft, which is UTF-8; False if nothing of it can be of use. Idempotent."""
        if epoch < self.epoch or not self._from <= base <= self.end + MAX_LINE:
            return False
        if epoch > self.epoch:
            self.epoch, self._line = epoch, b""
        late = min(len(text), max(0, self.end - base))
        if text[:late] != self._between(base, base + late):
            self._disagree()
            return False
        text, base = text[late:], base + late
        if not text:
            return False
        if not self._at <= base <= self._at + len(self._line):
            if self.rest:
                return False  # a part between is missing; what is there is worth more
            self._line, self._at = b"", base
        at = base - self._at
        if self._line[at : at + len(text)] != text:
            room = self.end + MAX_LINE - self._at
            line = self._line[:at] + text
            # Cut between two characters.
            self._line = line if len(line) <= room else line[:room].decode(errors="ignore").encode()
        return True

    @property
    def rest(self) -> bytes:
        """What is drafted from the target's end on; nothing while that lies inside a character."""
        at = self.end - self._at
        return b"" if at < 0 or self._utf8.getstate()[0] else self._line[at:]

    def _between(self, low: int, high: int) -> bytes:
        return bytes(self._said[low - self._from : high - self._from])

    def _disagree(self) -> None:
        self._line = b""
        self.epoch += 1
