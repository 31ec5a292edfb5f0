"""A drafter's tokens over a text that a target of another vocabulary settles.

What the drafter has guessed stands as long as its text agrees with the settled one, however the
target may have cut that: it is the drafter's own, natural cut. Where the texts part, or the settled
one is ahead, the rest is cut anew from a safe boundary before that place, one where a word begins
(so that what comes before it is cut the same whatever follows) and never inside a character; the
drafter is rewound to the tokens that are the same. Universal assisted decoding (Timor et al., 2025)
with the window that it re-encodes.

Positions of tokens count the drafter's own answer tokens, places of text its bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

WINDOW = 16
"""Tokens that a safe boundary is looked for in; without one it is the last token's end."""
BLANK = b" \t\r\n"


class Alignment:
    """One answer's. `epoch` counts the drafter's wrong turns as its engine does (drafts.Lead)."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.epoch = 0
        self._ends: list[int] = []
        self._text = bytearray()
        self._settled = bytearray()
        self._agreed = 0
        self._told = 0

    def settle(self, base: int, text: bytes) -> None:
        """The target's text goes on from `base`, a place that it has reached."""
        self._settled[base:] = text
        self._compare()

    def guess(
        self, epoch: int, base: int, tokens: Sequence[int], pieces: Sequence[bytes]
    ) -> tuple[int, bytes] | None:
        """The drafter goes on with these; where their text is and what it is.

        None for what was said before the drafter heard of its wrong turn.
        """
        if epoch < self.epoch or not self._told <= base <= len(self.tokens):
            return None
        self.epoch = epoch
        self._cut(base)
        self._append(tokens, pieces)
        at = self._start(base)
        return at, bytes(self._text[at:])

    @property
    def wanted(self) -> tuple[int, bytes] | None:
        """From which token on, and of which text, new tokens are needed; None while all agrees."""
        if self._agreed == len(self._settled):
            return None
        keep = self._boundary(self._within(self._agreed))
        return keep, bytes(self._settled[self._start(keep) :])

    def fit(self, keep: int, text: bytes, tokens: Sequence[int], pieces: Sequence[bytes]) -> bool:
        """Take the new tokens of what was wanted; False if they are not that text.

        More may have been settled and guessed since; then something is wanted again, or nothing is.
        """
        if b"".join(pieces) != text:
            return False
        now = self.wanted
        if now is None or now[0] != keep or not now[1].startswith(text):
            return True
        same = 0
        for ours, new in zip(self.tokens[keep:], tokens, strict=False):
            if ours != new:
                break
            same += 1
        if keep + same < len(self.tokens):
            self.epoch += 1
        self._cut(keep + same)
        self._append(tokens[same:], pieces[same:])
        self._told = min(self._told, keep + same)
        return True

    def news(self) -> tuple[int, tuple[int, ...]] | None:
        """Tokens that the drafter has to hear are settled, and their position; told once."""
        done, base = self._within(self._agreed), self._told
        if self._agreed < len(self._settled) or done <= base:
            return None
        self._told = done
        return base, tuple(self.tokens[base:done])

    def _append(self, tokens: Sequence[int], pieces: Sequence[bytes]) -> None:
        for token, piece in zip(tokens, pieces, strict=True):
            self.tokens.append(token)
            self._text += piece
            self._ends.append(len(self._text))
        self._compare()

    def _cut(self, keep: int) -> None:
        del self._text[self._start(keep) :]
        del self.tokens[keep:], self._ends[keep:]
        self._agreed = min(self._agreed, len(self._text))

    def _compare(self) -> None:
        at, most = self._agreed, min(len(self._text), len(self._settled))
        if self._text[at:most] == self._settled[at:most]:
            self._agreed = most
            return
        while self._text[at] == self._settled[at]:
            at += 1
        self._agreed = at

    def _start(self, token: int) -> int:
        return self._ends[token - 1] if token else 0

    def _within(self, place: int) -> int:
        """Tokens that end there or before. A control token at the end is none: it has no text, and
        text that goes on shows that it was wrong."""
        count = bisect_right(self._ends, place)
        while count and self._start(count) == self._start(count - 1):
            count -= 1
        return count

    def _boundary(self, most: int) -> int:
        """The last safe boundary of at most so many tokens."""
        for token in range(most, max(0, most - WINDOW) - 1, -1):
            if self._begins_word(self._start(token)):
                return token
        while most and self._settled[self._start(most)] & 0xC0 == 0x80:
            most -= 1
        return most

    def _begins_word(self, place: int) -> bool:
        if not place:
            return True
        return self._settled[place] in BLANK and self._settled[place - 1] not in BLANK
