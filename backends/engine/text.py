"""From a sequence's bytes to text that may be shown: stop strings and UTF-8 held back.

A token is bytes, not characters: a stop string can begin in one token and end in another, and so
can a character. What might still become either is kept until the next token decides.
"""

from __future__ import annotations

import codecs


class TextStream:
    """One sequence's text. Bytes that are not UTF-8 become U+FFFD, as they do everywhere else."""

    def __init__(self, stop: tuple[bytes, ...] = ()) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = b""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._pushed = 0
        self.stopped = False
        """Whether a stop string was met; nothing from it on is ever shown."""

    @property
    def pushed(self) -> int:
        """Bytes pushed so far; after a stop string, those before it."""
        return self._pushed

    @property
    def shown(self) -> int:
        """How many of them `push` and `flush` have returned, as they came: before U+FFFD."""
        return self._pushed - len(self._held) - len(self._utf8.getstate()[0])

    def push(self, piece: bytes) -> bytes:
        """Add a token's bytes; returns what may be shown now."""
        self._held += piece
        self._pushed += len(piece)
        # The stop string that is complete first counts, so that token borders make no difference.
        found = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            at = min(found)[1]
            self._pushed -= len(self._held) - at
            shown, self._held, self.stopped = self._held[:at], b"", True
            return self._utf8.decode(shown, True).encode()
        keep = self._tail()
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[-keep:] if keep else b"",
        )
        return self._utf8.decode(shown).encode()

    def flush(self) -> bytes:
        """What was held back, when the sequence ends without a stop string."""
        shown, self._held = self._held, b""
        return self._utf8.decode(shown, True).encode()

    def _tail(self) -> int:
        """Length of the longest end of the held bytes that a stop string could begin with."""
        longest = max((len(s) for s in self._stop), default=0) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-size:]
            if any(s.startswith(end) for s in self._stop):
                return size
        return 0
