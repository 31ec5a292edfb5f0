"""The two ends of drafting, without a model: what a target may try, how far a drafter leads.

Positions count generated tokens. A drafter proposes what comes at a position; a target commits
what really came. Neither waits for the other, so a draft can come late (the target has generated
that position itself: compared, and trimmed if it agrees) or early (kept until its turn).

An epoch names one guess at the future. Whoever finds a disagreement starts a new one, numbered past
the guess that failed: what is still on its way from the old guess is dropped unread. That only
spares work. A stale draft that slipped through would be verified and rejected like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PENDING = 256
"""Positions beyond the committed ones that a target keeps drafts for."""


class Inbox:
    """A target's drafts, by position. `epoch` goes up at each disagreement."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._pending: dict[int, int] = {}
        self.epoch = 0

    def put(self, epoch: int, base: int, tokens: Sequence[int], committed: Sequence[int]) -> bool:
        """Take a draft in; False if nothing of it can be of use. Idempotent."""
        if base < 0 or not all(0 <= token < self._vocab for token in tokens):
            return False
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self._pending.clear()
            self.epoch = epoch
        done = len(committed)
        for position, token in enumerate(tokens, base):
            if position >= done + MAX_PENDING:
                break
            if position >= done:
                self._pending[position] = token
            elif committed[position] != token:
                self._disagree()
                return False
        return base + len(tokens) > done

    def take(self, done: int, width: int) -> list[int]:
        """The longest draft, up to `width`, that continues `done` committed tokens."""
        draft: list[int] = []
        while len(draft) < width and (token := self._pending.get(done + len(draft))) is not None:
            draft.append(token)
        return draft

    def commit(self, base: int, tokens: Sequence[int]) -> None:
        """The target has generated these: what was drafted for their positions is settled."""
        for position, token in enumerate(tokens, base):
            drafted = self._pending.pop(position, None)
            if drafted is not None and drafted != token:
                self._disagree()
                return

    def _disagree(self) -> None:
        self._pending.clear()
        self.epoch += 1


class Lead:
    """A drafter's tokens: the first `confirmed` are the target's, the rest are its own guess."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self.tokens: list[int] = []
        self.confirmed = 0
        self.epoch = 0
        self._said: dict[int, float] = {}

    def guess(self, token: int, said: float | None = None) -> None:
        """Go one ahead; `said` is the probability that the draft model gives the token."""
        if said is not None:
            self._said[len(self.tokens)] = said
        self.tokens.append(token)

    @property
    def said(self) -> tuple[float, ...]:
        """Of the tokens that nobody confirmed yet."""
        return tuple(self._said.values())

    def compared(self, base: int, tokens: Sequence[int]) -> list[tuple[float, bool]]:
        """What was said of guesses that the target now settles, and whether they hold; up to the
        first that does not, for what follows from it shows nothing."""
        found: list[tuple[float, bool]] = []
        for position, token in enumerate(tokens, base):
            said = self._said.pop(position, None)
            if said is None or position >= len(self.tokens):
                continue
            held = self.tokens[position] == token
            found.append((said, held))
            if not held:
                self._said.clear()
                break
        return found

    @property
    def ahead(self) -> int:
        return len(self.tokens) - self.confirmed

    def sync(self, epoch: int, base: int, tokens: Sequence[int]) -> int | None:
        """Hear what the target committed; the first position that changed, None if none did.

        Tokens that would leave a gap, or that no vocabulary has, are ignored: the drafter then only
        lags, and a lagging drafter is harmless.
        """
        in_range = all(0 <= token < self._vocab for token in tokens)
        if not 0 <= base <= len(self.tokens) or not in_range:
            return None
        changed = None
        for position, token in enumerate(tokens, base):
            if position == len(self.tokens):
                self.tokens.append(token)
            elif self.tokens[position] != token:
                changed = position if changed is None else changed
                del self.tokens[position:]
                self.tokens.append(token)
        # A text of another vocabulary may be cut otherwise, and into fewer tokens, once more of it
        # is known (backends/speculative/alignment.py).
        kept = self.confirmed if changed is None else 0
        self.confirmed = max(kept, base + len(tokens))
        self.epoch = max(self.epoch + (changed is not None), epoch)
        return changed
