"""A draft model's own word, as it came true; and a drafter that rests when it is no longer sure."""

from __future__ import annotations

import numpy as np
import pytest

from backends.engine.confidence import Confidence, probability
from backends.engine.drafts import Lead
from backends.engine.protocol import Job
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from tests.fakes.decoder import FakeDecoder


def test_probability_is_the_softmax() -> None:
    """Of one token, however large the logits."""
    row = np.array([1.0, 3.0, 2.0], np.float32)
    expected = np.exp(3.0) / np.exp([1.0, 3.0, 2.0]).sum()
    assert probability(row, 1) == pytest.approx(expected)
    assert probability(row + 1000, 1) == pytest.approx(expected, rel=1e-4)


def test_a_model_that_boasts_is_believed_less() -> None:
    """It says 0.97 and holds half of the time: after a hundred tokens that is what is expected."""
    confidence = Confidence()
    assert confidence.chance(0.97) == pytest.approx(0.97, abs=0.01)
    for at in range(100):
        confidence.see(0.97, held=at % 2 == 0)
    assert confidence.chance(0.97) == pytest.approx(0.5, abs=0.05)
    assert confidence.chance(0.3) == pytest.approx(0.35, abs=0.01), "other buckets stay"


def test_what_is_compared_ends_with_the_first_miss() -> None:
    """Guesses behind a wrong one were about another text: they show nothing."""
    lead = Lead(16)
    for token, said in ((1, 0.9), (2, 0.8), (3, 0.7)):
        lead.guess(token, said)
    assert lead.compared(0, [1, 9, 3]) == [(0.9, True), (0.8, False)]
    assert lead.said == ()


def run(floor: float, *, ahead: int = 8) -> int:
    """How far a drafter goes whose every token has the same probability, when nobody answers."""
    limits = Limits(context=64, cells=64, slots=1, batch=64)
    scheduler = Scheduler(FakeDecoder(cells=64, batch=64, outputs=16), limits)
    job = Job(id=1, tokens=(2, 4), max_tokens=32, role="draft", ahead=ahead, floor=floor)
    scheduler.submit(job)
    drafted = 0
    while not scheduler.idle:
        drafted += sum(len(output.tokens) for output in scheduler.step())
    return drafted


def test_a_drafter_rests_below_the_floor() -> None:
    """One of sixteen tokens with a logit of 1 has 0.15: without a floor it goes to its full lead,
    with one of 0.05 it stops as soon as both that it has said are less likely than that."""
    assert run(0.0) == 8
    assert run(0.05) == 2
    assert run(0.5) == 1
