"""Probing: tasks with answers that can be checked, and the ability that explains the outcomes."""

from __future__ import annotations

import math
import random

import pytest

from router_policies.training.probe import Task, ability, right, tasks


def test_tasks_are_always_the_same() -> None:
    """The same tasks each time, all different, and each is solved by its own answer."""
    found = tasks(120)
    assert found == tasks(120) and len({task.prompt for task in found}) > 110
    assert all(right(task, f"It is **{task.answer}**.") for task in found)
    assert not any(right(task, "I do not know") for task in found)


@pytest.mark.parametrize(
    ("wanted", "said", "verdict"),
    [
        ("1234", "1,234", True),
        ("1234", "12 34", False),
        ("-5", "The result is -5.", True),
        ("5", "-5", False),
        ("5", "5.0", True),
        ("5", "5 apples", False),
        ("a b c", "A, B, C", True),
        ("a b c", "A, C, B", False),
        ("Friday", "friday!", True),
        ("7", "", False),
    ],
)
def test_an_answer_is_right_at_its_end(wanted: str, said: str, verdict: bool) -> None:
    """Case, commas and decoration do not matter; what stands last does."""
    assert right(Task("?", wanted), said) is verdict


@pytest.mark.parametrize("shift", [-1.5, 0.0, 1.5])
def test_an_ability_is_found_again(shift: float) -> None:
    """From outcomes of a model of known ability, about that ability is estimated."""
    rng = random.Random(1)
    chances = [rng.uniform(0.2, 0.8) for _ in range(2000)]
    outcomes = [
        rng.random() < 1 / (1 + math.exp(-(math.log(c / (1 - c)) + shift))) for c in chances
    ]
    assert ability(chances, outcomes) == pytest.approx(shift, abs=0.15)


def test_few_tasks_say_little() -> None:
    """All right or all wrong is no proof of omniscience: the prior keeps the shift finite."""
    assert 0 < ability([0.5] * 5, [True] * 5) < 2
    assert ability([], []) == 0.0
    assert ability([1.0, 0.0], [False, True]) == pytest.approx(0.0, abs=0.01)
