"""Evaluation prompts by class, from seeds and files that training never saw."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from backends.engine.demo_pair import chat
from backends.engine.demo_pair.corpus import Corpus
from backends.engine.demo_pair.data import fim_cut
from backends.engine.demo_pair.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
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

SEED = 77_000_002

# (prompt, the generator's own answer: exact or just one of several good ones)
Case = tuple[str, str]
_Pair = Callable[[Random], tuple[str, str]]

# Classes with one right answer, so that an exact match means something.
EXACT: dict[str, tuple[_Pair, ...]] = {
    "sums": (arithmetic.arithmetic,),
    "counting, comparing, sorting": (
        arithmetic.count,
        arithmetic.compare,
        arithmetic.parity,
        arithmetic.order,
    ),
    "small facts": (facts.capital, facts.opposite, facts.translation, facts.plain, facts.successor),
    "repeating words": (facts.repeat,),
    "about itself": (about.about,),
    "declining": (beyond.program, beyond.fact, beyond.today),
    "explaining library code": (coding.explanation,),
    "JSON extraction": (extraction.extraction,),
}
OPEN: dict[str, tuple[_Pair, ...]] = {
    "writing functions": (coding.request,),
    "stories and messages": (prose.story, prose.message),
}


def chat_cases(pairs: tuple[_Pair, ...], count: int) -> list[Case]:
    rng = Random(SEED)
    return [_asked(*rng.choice(pairs)(rng)) for _ in range(count)]


def tool_cases(count: int) -> list[Case]:
    """Only requests that need a call."""
    rng = Random(SEED)
    found: list[Case] = []
    while len(found) < count:
        talk = tools.conversation(rng, aside=("", ""))
        if "tool_calls" not in talk.messages[1]:
            continue
        prompt = chat.render(talk.messages[:1], talk.tools, generate=True)
        whole = chat.render(talk.messages[:2], talk.tools)
        found.append((prompt, whole[len(prompt) :].partition(chat.ANSWER_ENDS)[0]))
    return found


def line_cases(corpus: Corpus, count: int, *, characters: int = 900) -> list[Case]:
    """Text up to the end of a line of a held-out file, and the next line that is not blank.

    The prompt ends before the line break, since tokens join a break with the indentation after it.
    """
    rng = Random(SEED)
    found: list[Case] = []
    while len(found) < count:
        text = rng.choice(corpus.held_out).text
        end = text.find("\n", rng.randrange(len(text)))
        following = [line for line in text[end:].splitlines() if line.strip()] if end >= 0 else []
        start = text.rfind("\n", 0, max(0, end - characters)) + 1
        if following and end - start > 100:
            found.append((text[start:end], following[0]))
    return found


def fim_cases(corpus: Corpus, count: int, *, characters: int = 500) -> list[Case]:
    """A hole from somewhere in a line to its end, as when someone types."""
    rng = Random(SEED)
    found: list[Case] = []
    while len(found) < count:
        text = rng.choice(corpus.held_out).text
        start = text.find("\n", rng.randrange(len(text))) + 1
        window = text[start : start + 2 * characters]
        if len(window) < characters:
            continue
        a, b = fim_cut(window, rng)
        hole = window[a:b]
        if "\n" in hole or not hole.strip():
            continue
        found.append((f"{FIM_PREFIX}{window[:a]}{FIM_SUFFIX}{window[b:]}{FIM_MIDDLE}", hole))
    return found


def _asked(ask: str, answer: str) -> Case:
    return chat.render([{"role": "user", "content": ask}], generate=True), answer
