"""What a local draft says about its own chance of being right. Pure.

The router sees a prompt; this sees an answer begin. Small signals, all free on a model of one's
own: how sure each token was (its log-probability, the margin over the second likeliest, the entropy
of the likeliest), whether the text goes round in circles or declines, whether a form that was asked
for came out, whether a second opinion says the same. The margin of the weakest token carries most
of it (UCCI, arXiv 2605.18796; measured on the bundled pair by `tests/bench/stage2.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.chat import ChatRequest, Feature, TokenLogprob
from gateway.core.events import Event, Finish, TextDelta, ToolCallDelta

TOP = 5
"""Likeliest tokens asked for beside each: more change the entropy by less than a tenth."""
FLOOR = math.log(1e-4)
"""A log-probability below this says no more than this."""

NAMES = (
    "first_margin",
    "least_margin",
    "mean_margin",
    "least_logprob",
    "mean_logprob",
    "most_entropy",
    "mean_entropy",
    "tokens",
    "agrees",
    "differs",
)
"""What a calibration may weigh, in this order."""

_REPEATS = 4
_LONGEST_CYCLE = 48
_DECLINES = re.compile(
    r"^\W*(i('m| am) sorry|sorry,|i (can(no|')t|do not|don't) (know|help|answer|do that|have)|"
    r"i am not able|i'm not able|as an ai)",
    re.IGNORECASE,
)
_JSON_KINDS = frozenset({"json_object", "json_schema"})


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic curve over `NAMES`: what makes signals into P(the draft is right).

    `weights` by name, the rest weigh nothing. Raises ValueError for a name that is no signal.
    """

    weights: Mapping[str, float]
    bias: float = 0.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(NAMES)):
            raise ValueError(f"no such signal: {', '.join(unknown)}; there are {', '.join(NAMES)}")

    def probability(self, signals: Mapping[str, float]) -> float:
        total = self.bias + sum(w * signals[name] for name, w in self.weights.items())
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, total))))


class Evidence:
    """Fed with a draft's events. Of several choices only the first is looked at."""

    def __init__(self, request: ChatRequest) -> None:
        self._form = _asks_for_json(request)
        self._margins: list[float] = []
        self._logprobs: list[float] = []
        self._entropies: list[float] = []
        self._pieces: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._second: bool | None = None
        self.finish: str | None = None

    @property
    def tokens(self) -> int:
        """How many tokens have been judged."""
        return len(self._margins)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def answer(self) -> str:
        """Text and calls in one form that can be compared."""
        return normal(self.text, ["".join(call) for _, call in sorted(self._calls.items())])

    def note(self, event: Event) -> None:
        match event:
            case TextDelta() if event.choice == 0:
                self._pieces.append(event.text)
                for token in event.logprobs:
                    self._note_token(token)
            case ToolCallDelta() if event.choice == 0:
                call = self._calls.setdefault(event.index, [])
                call += [event.name, event.arguments]
            case Finish() if event.choice == 0:
                self.finish = event.reason
            case _:
                pass

    def second_opinion(self, answer: str) -> None:
        """What another model, or another draw, says to the same question."""
        self._second = answer == self.answer

    def signals(self) -> dict[str, float]:
        """By `NAMES`; of a draft without judged tokens, those of total doubt."""
        margins, logprobs = self._margins or [0.0], self._logprobs or [FLOOR]
        entropies = self._entropies or [math.log(TOP)]
        return {
            "first_margin": margins[0],
            "least_margin": min(margins),
            "mean_margin": sum(margins) / len(margins),
            "least_logprob": min(logprobs),
            "mean_logprob": sum(logprobs) / len(logprobs),
            "most_entropy": max(entropies),
            "mean_entropy": sum(entropies) / len(entropies),
            "tokens": math.log1p(len(margins)),
            "agrees": float(self._second is True),
            "differs": float(self._second is False),
        }

    def fault(self) -> str | None:
        """What is wrong with the draft whatever it was sure of; None if nothing.

        `loop`: it repeats itself. `refusal`: it declines. `empty`: it ended without a word.
        `form`: JSON was asked for, and what came out is none.
        """
        text = self.text
        if circles(text):
            return "loop"
        if _DECLINES.match(text):
            return "refusal"
        if self.finish is None:
            return None
        if not text.strip() and not self._calls:
            return "empty"
        if self._form and not self._calls and not _is_json(text):
            return "form"
        if any(not _is_json("".join(call[1::2]) or "{}") for call in self._calls.values()):
            return "form"
        return None

    def _note_token(self, token: TokenLogprob) -> None:
        if token.logprob is None:
            return
        probabilities = sorted((math.exp(each.logprob or 0) for each in token.top), reverse=True)
        second = probabilities[1] if len(probabilities) > 1 else 0.0
        self._margins.append((probabilities[0] if probabilities else 1.0) - second)
        self._logprobs.append(max(FLOOR, token.logprob))
        self._entropies.append(-sum(p * math.log(p) for p in probabilities if p > 0))


def circles(text: str) -> bool:
    """Whether the end of a text is the same few characters over and over."""
    for size in range(1, min(_LONGEST_CYCLE, len(text) // _REPEATS) + 1):
        cycle = text[-size:]
        # Rulers and blank lines repeat one character for good reason: those need far more.
        times = _REPEATS if size >= 12 else 64 // size
        if len(text) >= size * times and text.endswith(cycle * times):
            return True
    return False


def normal(text: str, calls: list[str]) -> str:
    """An answer as it is compared: JSON by its value, text without case and spaces."""
    said = [text, *calls] if calls else [text]
    return "\x1e".join(map(_plain, said))


def _plain(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return " ".join(text.split()).casefold()


def _asks_for_json(request: ChatRequest) -> bool:
    if Feature.JSON_MODE not in request.features:
        return False
    wanted = request.body.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in _JSON_KINDS


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
