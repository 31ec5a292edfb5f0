"""What a request and its answer say about each other without anybody being asked. Pure.

A turn that is asked again within two minutes says that its answer was no good (router.md 5): the
same words are a regenerate, nearly the same ones a re-ask.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass

from backends.evidence import Evidence
from gateway.core.chat import ChatRequest
from gateway.core.events import Collector, replay

WITHIN_S = 120.0
SIMILAR = 0.8
SHINGLE = 5
"""Characters of one shingle."""
KEYS, TURNS = 4096, 8
"""Sessions whose last turns are remembered, and how many of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A user's turn. `session` is its key, system prompt and first user turn; `opening` is its key
    and system prompt where this is the first turn of its conversation, "" elsewhere. Times are in
    seconds on one clock.
    """

    id: str
    text: str
    session: str
    opening: str
    asked: float
    answered: float


def turn(
    request: ChatRequest, *, id: str, key_id: str, text: str, asked: float, answered: float
) -> Turn | None:
    """The turn that a request takes; None where a program goes on by itself, as after a tool."""
    messages = request.messages
    if messages and messages[-1].role != "user":
        return None
    begin, users = [key_id, request.model], 0
    first = text
    for message in messages:
        if message.role == "user":
            users += 1
            if users == 1:
                first = message.text
        elif message.role in ("system", "developer") and not users:
            begin.append(message.text)
    return Turn(
        id=id,
        text=text,
        session=_digest(*begin, first),
        opening=_digest(*begin) if users < 2 else "",
        asked=asked,
        answered=answered,
    )


class LastTurns:
    """The last few turns of each conversation, to tell when one is asked again."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, deque[Turn]] = OrderedDict()

    def again(self, now: Turn) -> tuple[str, str] | None:
        """(the id of the turn that this one repeats, `regenerate` or `reask`); then it is noted.

        Only an answer that was there when this was asked can have been judged by it: what a
        program asks at once, many times and in parallel, is nobody's judgement.
        """
        found = None
        places = [now.session, now.opening] if now.opening else [now.session]
        for place in places:
            for before in reversed(self._last.get(place, ())):
                if not before.answered <= now.asked <= before.answered + WITHIN_S:
                    continue
                if before.text == now.text:
                    return self._note(now, places, (before.id, "regenerate"))
                if found is None and similarity(before.text, now.text) >= SIMILAR:
                    found = before.id, "reask"
        return self._note(now, places, found)

    def _note(
        self, now: Turn, places: list[str], found: tuple[str, str] | None
    ) -> tuple[str, str] | None:
        for place in places:
            self._last.setdefault(place, deque(maxlen=TURNS)).append(now)
            self._last.move_to_end(place)
        while len(self._last) > KEYS:
            self._last.popitem(last=False)
        return found


def similarity(one: str, other: str) -> float:
    """Shared shingles over all shingles (Jaccard), 0 to 1; case and spacing do not count."""
    a, b = _shingles(one), _shingles(other)
    return len(a & b) / len(a | b)


def fault(evidence: Evidence, collector: Collector) -> str | None:
    """What is wrong with an answer: `tool_call`, `form`, `empty`, `refusal` or `loop`.

    One that was cut, by its limit or by what we keep, cannot be blamed for its form.
    """
    completion = collector.completion()
    for event in replay(completion):
        evidence.note(event)
    if completion.choices and completion.choices[0].refusal:
        return "refusal"
    found = evidence.fault()
    if found in ("form", "empty") and (collector.overflowed or evidence.finish == "length"):
        return None
    if found == "form" and completion.choices[0].tool_calls:
        return "tool_call"
    return found


def _shingles(text: str) -> set[str]:
    plain = " ".join(text.casefold().split())
    return {plain[at : at + SHINGLE] for at in range(max(1, len(plain) - SHINGLE + 1))}


def _digest(*parts: str) -> str:
    text = "\0".join(parts).encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
