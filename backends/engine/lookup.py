"""Prompt lookup: what followed the last time the text read like this is likely to follow again.

Edits, quotations and structured output repeat what they were given. A text is indexed by its runs
of five and of three tokens; where the newest tokens were seen before, a pointer is set behind that
place and moves along while the text does as it says. So every token, drafted or not, shows whether
the pointer was right, and the controller knows what drafts are worth before any is verified.

Work for each token is constant: two dictionary entries, and a look back of LOOK_BACK tokens at most
when a pointer is set.
"""

from __future__ import annotations

from collections.abc import Sequence

RUNS = (5, 3)
"""Lengths that are looked up, the longest first: a longer agreement is more seldom a chance."""
LOOK_BACK = 16
"""How far an agreement is measured when it is found; it grows beyond while the pointer holds."""
_BUCKETS = (3, 5, 9, 16)


def bucket(agreement: int) -> int:
    """Guesses after a long agreement hold far more often: each of these has odds of its own."""
    return sum(agreement >= edge for edge in _BUCKETS)


class Lookup:
    """Follows one stream of tokens and points at what may come next.

    Searched is the stream itself or, if given, `text`: what a client expects the answer to be.
    With a text the pointer begins at its beginning. `runs` are the lengths that are looked up, the
    longest first.
    """

    def __init__(self, text: Sequence[int] | None = None, runs: Sequence[int] = RUNS) -> None:
        self._runs = runs
        self._stream: list[int] = []
        self._own = text is None
        self._text = self._stream if text is None else list(text)
        self._seen: dict[int, dict[tuple[int, ...], int]] = {run: {} for run in runs}
        self._at: int | None = None
        self.agreement = 0
        """How many of the last tokens agree with those before the pointer."""
        for end in range(1, len(self._text)):
            self._index(end)

    def __len__(self) -> int:
        """Tokens that it was fed."""
        return len(self._stream)

    @property
    def guess(self) -> int | None:
        """The next token, as the pointer has it."""
        if self._at is None or self._at >= len(self._text):
            return None
        return self._text[self._at]

    def start(self) -> None:
        """Point at the text's beginning: the answer begins here."""
        if not self._own:
            self._at, self.agreement = 0, 0

    def feed(self, token: int) -> None:
        """The stream's next token."""
        guessed = self.guess
        self._stream.append(token)
        if self._own:
            self._index(len(self._stream) - 1)
        if self._at is not None and guessed == token:
            self._at += 1
            self.agreement += 1
        else:
            self._find()

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens from the pointer on; a run that reaches the stream's end repeats."""
        if self._at is None:
            return []
        found = self._text[self._at : self._at + most]
        if self._own and found:
            period = len(found)
            while len(found) < most:
                found.append(found[-period])
        return found

    def _index(self, end: int) -> None:
        """Remember the runs that end before position `end`, which tells what follows them.

        The newest run of all is not there yet, so a stream never finds itself.
        """
        for run in self._runs:
            if end >= run:
                self._seen[run][tuple(self._text[end - run : end])] = end

    def _find(self) -> None:
        stream, self._at, self.agreement = self._stream, None, 0
        for run in self._runs:
            at = self._seen[run].get(tuple(stream[-run:]))
            if at is not None:
                self._at, self.agreement = at, self._agreement(at)
                return

    def _agreement(self, at: int) -> int:
        stream, text = self._stream, self._text
        length, most = 0, min(LOOK_BACK, at, len(stream))
        while length < most and text[at - 1 - length] == stream[-1 - length]:
            length += 1
        return length
