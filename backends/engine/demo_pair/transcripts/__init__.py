"""Chat transcripts from our own generator: the mix, and how turns become conversations.

Everything is a function of a `random.Random`, so a seed is a corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from backends.engine.demo_pair.transcripts import (
    about,
    arithmetic,
    beyond,
    coding,
    extraction,
    facts,
    prose,
    tools,
)
from backends.engine.demo_pair.transcripts.tools import Conversation

Pair = tuple[str, str]

# The share of single turns that each generator writes. What a newcomer types first weighs most.
MIX: tuple[tuple[int, Callable[[Random], Pair]], ...] = (
    (5, about.greeting),
    (13, about.about),
    (2, about.introduction),
    (8, beyond.subject),
    (4, beyond.program),
    (4, beyond.fact),
    (1, beyond.today),
    (22, arithmetic.arithmetic),
    (2, arithmetic.count),
    (1, arithmetic.compare),
    (1, arithmetic.parity),
    (2, arithmetic.order),
    (1, arithmetic.spelled),
    (5, facts.capital),
    (2, facts.opposite),
    (2, facts.translation),
    (3, facts.plain),
    (1, facts.successor),
    (5, facts.some),
    (4, facts.repeat),
    (1, facts.letters),
    (5, prose.story),
    (2, prose.animal),
    (2, prose.message),
    (2, prose.steps),
    (14, extraction.extraction),
    (2, extraction.sentiment),
    (2, extraction.invented),
    (17, coding.request),
    (4, coding.explanation),
    (2, coding.docstring),
)
_WEIGHTS = [weight for weight, _ in MIX]

# Share of conversations that offer tools.
TOOLS_SHARE = 0.14

_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are a coding assistant.",
    "You are a friendly assistant who answers in short sentences.",
    "You are an expert Python programmer.",
    "Answer the user's question.",
    "Be brief.",
    "Be concise and polite.",
    "You are the assistant of a small company.",
    "You are Tandem's demo assistant.",
    "You extract data from text and answer in JSON.",
    "Follow the user's instructions carefully.",
)


def pair(rng: Random) -> Pair:
    """One request and its answer."""
    return rng.choices(MIX, _WEIGHTS)[0][1](rng)


def conversation(rng: Random) -> Conversation:
    """A whole transcript: usually one turn, sometimes several, sometimes with tools."""
    if rng.random() < TOOLS_SHARE:
        found = tools.conversation(rng, aside=pair(rng))
    else:
        messages = _turns(rng)
        found = Conversation(messages)
    if rng.random() < 0.35:
        found.messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM)})
    return found


def _turns(rng: Random) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for _ in range(rng.choices((1, 2, 3), (70, 22, 8))[0]):
        if messages and rng.random() < 0.12:
            ask, answer = _look_back(rng, messages)
        else:
            ask, answer = pair(rng)
        messages.append({"role": "user", "content": ask})
        messages.append({"role": "assistant", "content": answer})
    return messages


def _look_back(rng: Random, messages: list[dict[str, Any]]) -> Pair:
    """A follow-up that only the conversation above can answer."""
    if rng.random() < 0.5:
        ask = rng.choice(("What did I just say?", "What did I ask?", "Repeat my last message."))
        return ask, f"You said: {messages[-2]['content']}"
    ask = rng.choice(("Say that again.", "Repeat that.", "Repeat your answer.", "Again, please."))
    return ask, str(messages[-1]["content"])
