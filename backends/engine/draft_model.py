"""A small model that drafts for a large one, in the same process and thread.

It has its own context; sequences begin in it when a draft is first asked for, and are dropped for
another when it is full, since they can be fed again. It is fed whatever the target says and rewinds
where the target said something else. One that lags by a whole prompt catches up a chunk a step and
proposes nothing meanwhile: late drafts cost nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

CHUNK = 64
"""Tokens that it catches up in one step: nobody's next token waits for more."""


class Cells(Protocol):
    """Of llama.Context what is used here."""

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Any: ...

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None: ...


@dataclass(slots=True)
class Held:
    """A sequence's tokens in cells; `sure` of them are known to be the target's."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    sure: int = 0


class DraftModel:
    """`failure` is what `context.decode` raises when there are no cells left.

    `draft_s`: what drafting one token costs, measured.
    """

    def __init__(
        self,
        context: Cells,
        *,
        sequences: int,
        ends: Callable[[int], bool],
        draft_s: float,
        failure: type[Exception],
    ) -> None:
        self._context = context
        self._ends = ends
        self._failure = failure
        self._free = list(range(sequences))
        self._held: dict[int, Held] = {}  # by job, the longest unused first
        self.draft_s = draft_s

    def draft(self, job: int, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that this model would say after `tokens`, greedily."""
        held = self._take(job)
        same = held.sure
        end = min(len(held.tokens), len(tokens) - 1)  # the newest is fed again: its logits are gone
        while same < end and held.tokens[same] == tokens[same]:
            same += 1
        same = min(same, end)
        if same < len(held.tokens):
            self._context.remove(held.sequence, same)
            del held.tokens[same:]
        try:
            missing = tokens[same : same + CHUNK]
            guess = self._feed(held, missing)
            held.sure = same + len(missing)
            if held.sure < len(tokens):
                return []
            draft = [guess]
            while len(draft) < most and not self._ends(draft[-1]):
                draft.append(self._feed(held, draft[-1:]))
        except self._failure:
            for other in list(self._held):
                self.drop(other)
            return []
        return draft

    def drop(self, job: int) -> None:
        """Forget a job's sequence, if it has one."""
        held = self._held.pop(job, None)
        if held is not None:
            self._context.remove(held.sequence)
            self._free.append(held.sequence)

    def _take(self, job: int) -> Held:
        held = self._held.pop(job, None)
        if held is None:
            if not self._free:
                self.drop(next(iter(self._held)))
            held = Held(self._free.pop())
        self._held[job] = held
        return held

    def _feed(self, held: Held, tokens: list[int]) -> int:
        """The likeliest token after these."""
        at = len(held.tokens)
        positions = list(range(at, at + len(tokens)))
        wanted = [False] * (len(tokens) - 1) + [True]
        logits = self._context.decode(tokens, positions, [held.sequence] * len(tokens), wanted)
        held.tokens += tokens
        return int(logits[0].argmax())
