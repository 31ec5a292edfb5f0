"""How able a configured model is: short tasks with known answers, and the shift that explains them.

The tasks are made, not taken from anywhere, so that no model has learnt them by heart and anybody
may use them. An ability is the shift of log-odds that, added to the chances the router predicts for
the tasks, agrees best with what the model got right (a Rasch model with the items' difficulties
given and a standard normal prior): a model that was in no training data needs only this number.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp, log

SEED = 20_261_123
TASKS = 120
PRIOR_VARIANCE = 1.0
STEPS = 50
EDGE = 0.02
"""No predicted chance is taken for surer than this."""


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and the answer that it must end with."""

    prompt: str
    answer: str


def tasks(count: int = TASKS, seed: int = SEED) -> list[Task]:
    """The same tasks for the same seed, easy and hard in turn."""
    rng = random.Random(seed)
    makers = (_sum, _product, _shop, _letters, _sorted, _days, _output, _series, _logic, _units)
    return [makers[i % len(makers)](rng, 1 + i // len(makers) % 4) for i in range(count)]


def right(task: Task, answer: str) -> bool:
    """Whether an answer ends with the task's, whatever stands around it."""
    said = re.findall(r"-?\d[\d,]*(?:\.\d+)?|[a-z]+", answer.lower().replace("**", ""))
    wanted = re.findall(r"-?\d[\d,]*(?:\.\d+)?|[a-z]+", task.answer.lower())
    return [_plain(each) for each in said[-len(wanted) :]] == [_plain(each) for each in wanted]


def _plain(word: str) -> str:
    return word.replace(",", "").removesuffix(".0")


def ability(chances: Sequence[float], outcomes: Sequence[bool]) -> float:
    """The most likely shift of log-odds (Newton's method on the posterior)."""
    odds = [log(p / (1 - p)) for p in (min(1 - EDGE, max(EDGE, c)) for c in chances)]
    shift = 0.0
    for _ in range(STEPS):
        expected = [1 / (1 + exp(-(each + shift))) for each in odds]
        slope = sum(o - p for o, p in zip(outcomes, expected, strict=True)) - shift / PRIOR_VARIANCE
        bend = sum(p * (1 - p) for p in expected) + 1 / PRIOR_VARIANCE
        shift += max(-1.0, min(1.0, slope / bend))
    return shift


def _number(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _sum(rng: random.Random, level: int) -> Task:
    parts = [_number(rng, level + 1) for _ in range(level + 1)]
    shown = " + ".join(map(str, parts))
    return Task(f"Compute {shown}. Reply with the number only.", str(sum(parts)))


def _product(rng: random.Random, level: int) -> Task:
    a, b = _number(rng, 1 + level // 2), _number(rng, 1 + (level + 1) // 2)
    return Task(f"Compute {a} * {b}. Reply with the number only.", str(a * b))


def _shop(rng: random.Random, level: int) -> Task:
    prices = [(rng.randrange(2, 9), rng.randrange(2, 20)) for _ in range(level)]
    bought = " and ".join(f"{count} boxes at ${price} each" for count, price in prices)
    total = sum(count * price for count, price in prices)
    paid = total + rng.randrange(1, 60)
    prompt = f"Ana buys {bought}. She pays with ${paid}. How many dollars does she get back?"
    return Task(prompt + " Reply with the number only.", str(paid - total))


_WORDS = (
    "river lantern orchard pebble saddle copper walnut meadow thunder violin anchor basil".split()
)


def _letters(rng: random.Random, level: int) -> Task:
    text = " ".join(rng.sample(_WORDS, level))
    letter = rng.choice(sorted(set(text) - {" "}))
    prompt = f'How many times does the letter "{letter}" occur in "{text}"?'
    return Task(prompt + " Reply with the number only.", str(text.count(letter)))


def _sorted(rng: random.Random, level: int) -> Task:
    words = rng.sample(_WORDS, 2 + level)
    prompt = f"Put these words in alphabetical order: {', '.join(words)}."
    prompt += " Reply with the words only, separated by commas."
    return Task(prompt, " ".join(sorted(words)))


def _days(rng: random.Random, level: int) -> Task:
    start = date(2021, 1, 1) + timedelta(days=rng.randrange(1500))
    ahead = rng.randrange(2, 7) if level == 1 else rng.randrange(8, 40 * level)
    end = start + timedelta(days=ahead)
    prompt = f"{start:%-d %B %Y} is a {start:%A}. What day of the week is it {ahead} days later?"
    return Task(prompt + " Reply with one word.", f"{end:%A}")


def _output(rng: random.Random, level: int) -> Task:
    a, b = rng.randrange(2, 9), rng.randrange(2, 5 + level)
    body = f"total = 0\nfor i in range({b}):\n    total += i * {a}"
    total = sum(i * a for i in range(b))
    if level > 2:
        body += "\nwhile total > 20:\n    total = total // 2 - 1"
        while total > 20:
            total = total // 2 - 1
    prompt = f"{body}\nprint(total)\n\nWhat does it print? Reply with the number only."
    return Task(prompt, str(total))


def _series(rng: random.Random, level: int) -> Task:
    terms = [rng.randrange(1, 9)]
    step, factor = rng.randrange(2, 9), 1 if level < 3 else rng.randrange(2, 4)
    for _ in range(5):
        terms.append(terms[-1] * factor + step)
    shown = ", ".join(map(str, terms[:-1]))
    return Task(f"What comes next: {shown}, ...? Reply with the number only.", str(terms[-1]))


def _logic(rng: random.Random, level: int) -> Task:
    names = rng.sample(["Bo", "Cy", "Di", "Ed", "Flo", "Gus"], 2 + level)
    facts = [f"{a} is taller than {b}." for a, b in zip(names, names[1:], strict=False)]
    rng.shuffle(facts)
    return Task(" ".join(facts) + " Who is the shortest? Reply with one name.", names[-1])


def _units(rng: random.Random, level: int) -> Task:
    hours, minutes = rng.randrange(1, 3 + 4 * level), rng.randrange(1, 60)
    unit, each = ("minutes", 60) if level < 3 else ("seconds", 3600)
    prompt = f"How many {unit} are {hours} hours and {minutes} minutes?"
    return Task(prompt + " Reply with the number only.", str((hours * 60 + minutes) * each // 60))
