"""Prompts as people type them, to train beside the tidy ones: lower case, all on one line.

Exam questions come with capitals and a line for each option, and heads that have seen nothing else
take that shape for a fact about the question: 13 of 100 decisions at a 30 % share changed with the
shape alone, 3 with these copies among the rows (`tests/bench/router.py`).
"""

from __future__ import annotations

EVERY = 2
"""Of so many prompts one has a copy."""


def plainer(prompt: str, number: int) -> str:
    """The prompt without its capitals, its lines, or both: by turns."""
    if number % 3 != 1:
        prompt = prompt.lower()
    return prompt if number % 3 == 0 else " ".join(prompt.split())
