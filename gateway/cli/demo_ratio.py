"""Does drafting pay on this machine? Plain streaming of the target beside `tandem`, interleaved."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from gateway.cli.demo_ask import UNKEPT, Answer, ask

TOKENS = 96
ROUNDS = 3
SETTLING = 6
"""Answers before anything is measured: the controller drafts in its first ones to find out whether
that pays, and then decides."""
DRAFTED = "companion"
"""The strategy of an answer that was drafted throughout; `;` and a word say why one was not."""

PROMPTS = (
    "def read_lines(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\ndef walk(folder):\n",
    "def test_add():\n    assert add(1, 2) == 3\n\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rates are tokens a second; ratios are tandem over plain, one for each pair of answers.

    `drafted` counts what the target looked at, the settling answers included.
    """

    target: str
    plain: float
    tandem: float
    ratios: tuple[float, ...]
    drafted: int
    accepted: int
    drafting: int
    """Measured answers that were drafted to their end."""
    identical: int
    pairs: int
    strategies: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None


def compare(http: httpx.Client, plain: str, tandem: str) -> Comparison | str:
    """The comparison of two model names that lead to the same model, or why there is none."""
    prompts = _prompts(SETTLING + ROUNDS * len(PROMPTS))
    settling = [_answer(http, tandem, prompt) for prompt in prompts[:SETTLING]]
    pairs: list[tuple[Answer, Answer]] = []
    for turn, prompt in enumerate(prompts[SETTLING:]):
        # Who comes second finds the prompt's prefix already computed, so they take turns.
        if turn % 2:
            other, one = _answer(http, tandem, prompt), _answer(http, plain, prompt)
        else:
            one, other = _answer(http, plain, prompt), _answer(http, tandem, prompt)
        pairs.append((one, other))
    answers = [*settling, *(each for pair in pairs for each in pair)]
    failed = next((answer.error for answer in answers if answer.error), "")
    if failed:
        return f"an answer failed: {failed}"
    if not all(one.rate and other.rate for one, other in pairs):
        return "an answer was empty"
    return _compared(settling, pairs)


def _compared(settling: Sequence[Answer], pairs: Sequence[tuple[Answer, Answer]]) -> Comparison:
    told = [_told(answer) for answer in (*settling, *(other for _, other in pairs))]
    measured = told[len(settling) :]
    rates = [(one.rate or 0.0, other.rate or 0.0) for one, other in pairs]
    return Comparison(
        target=str(pairs[0][0].record.get("upstream_model", "")),
        plain=median(one for one, _ in rates),
        tandem=median(other for _, other in rates),
        ratios=tuple(other / one for one, other in rates),
        drafted=sum(each.get("drafted", 0) for each in told),
        accepted=sum(each.get("accepted", 0) for each in told),
        drafting=sum(each.get("strategy") == DRAFTED for each in measured),
        identical=sum(one.text == other.text for one, other in pairs),
        pairs=len(pairs),
        strategies=tuple(dict.fromkeys(str(each.get("strategy", "")) for each in measured)),
    )


def _prompts(count: int) -> list[str]:
    """Prompts that nobody has asked before: an upstream may keep answers of its own."""
    mark = secrets.token_hex(3)
    return [f"# {mark}-{at}\n{PROMPTS[at % len(PROMPTS)]}" for at in range(count)]


def _told(answer: Answer) -> Mapping[str, Any]:
    return answer.record.get("speculation") or {}


def _answer(http: httpx.Client, model: str, prompt: str) -> Answer:
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    return ask(http, "/v1/completions", body, UNKEPT)
