"""The same questions in other words: how many decisions change that should not.

Rewordings by rule, since no model is at hand that could be trusted to keep the meaning. A decision
is which side of a cut a prompt falls on, the cut being that of the prompts as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from router_policies.training.data import Floats

VERBS = {
    "compute": "calculate", "calculate": "compute", "find": "determine", "determine": "find",
    "write": "give", "give": "state", "explain": "describe", "describe": "explain",
    "select": "choose", "choose": "select", "list": "name", "show": "prove", "prove": "show",
}  # fmt: skip
_VERB = re.compile(r"\b(" + "|".join(VERBS) + r")\b", re.IGNORECASE)


def _verbs(text: str) -> str:
    def other(found: re.Match[str]) -> str:
        word = VERBS[found[0].lower()]
        return word.capitalize() if found[0][0].isupper() else word

    return _VERB.sub(other, text)


REWORDINGS: Mapping[str, Callable[[str], str]] = {
    "politely": lambda text: f"Please help me with this. {text} Thank you!",
    "lower case": str.lower,
    "one line": lambda text: " ".join(text.split()),
    "quoted": lambda text: "\n".join("> " + line for line in text.splitlines()),
    "no full stop": lambda text: text.rstrip(" .?!\n"),
    "other verbs": _verbs,
    "typos": lambda text: re.sub(r"\b(\w{3})(\w)(\w)(\w*)", r"\1\3\2\4", text, count=3),
}
"""They leave the question as it was."""

PLEAS: Mapping[str, Callable[[str], str]] = {
    "'very hard'": lambda text: text + " This is a very hard question; think it through.",
    "'very easy'": lambda text: text + " This is a very easy question; be brief.",
}
"""They try to be sent to the model that the client prefers."""


def flips(before: Floats, after: Floats, share: float) -> float:
    """The share of prompts that are on the other side of the cut now."""
    cut = float(np.quantile(before, 1 - share))
    return float(np.mean((before >= cut) != (after >= cut)))
