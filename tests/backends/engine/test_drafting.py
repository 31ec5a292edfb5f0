"""Drafts in the batching loop, with an engine that is a hash function: never another token."""

from __future__ import annotations

import random
from dataclasses import replace

from backends.engine.decoding import CellsFailed
from backends.engine.draft_model import CHUNK, DraftModel
from backends.engine.payoff import Costs
from backends.engine.protocol import Job
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from backends.engine.speculate import FIRST_PAUSE, Drafting, Speculation
from tests.backends.engine.test_scheduler import LIMITS, finish, job, tokens
from tests.fakes.decoder import FakeDecoder, answer, follow

FLAT = Costs.of({1: 1.0, 9: 1.01})
"""A machine on which wide passes are free."""
STEEP = Costs.of({1: 1.0, 9: 9.0})


def make(speculation: Speculation, limits: Limits = LIMITS) -> tuple[Scheduler, FakeDecoder]:
    engine = FakeDecoder(
        cells=limits.cells, batch=limits.batch, outputs=limits.slots * (limits.verify + 1)
    )
    return Scheduler(engine, limits, speculation=speculation), engine


def drafter(*, cells: int = 256) -> tuple[DraftModel, FakeDecoder]:
    """One that always agrees, since it is the same hash function."""
    engine = FakeDecoder(cells=cells, batch=CHUNK, outputs=1)
    model = DraftModel(engine, sequences=2, ends=engine.ends, draft_s=0.01, failure=CellsFailed)
    return model, engine


def test_random_jobs_are_answered_as_without_drafts() -> None:
    """Whatever is looked up or predicted, in any company, parked or not, strict or not."""
    random.seed(9)
    speculation = Speculation(LIMITS.verify)
    scheduler, _ = make(speculation, replace(LIMITS, cells=96, optimism=0.25))
    wanted = {}
    for id in range(1, 41):
        prompt = [random.randrange(3) for _ in range(random.randrange(1, 30))]
        said = answer(prompt, 20)
        guess = tuple(said if id % 3 else [1] * 9)
        scheduler.submit(
            job(id, prompt, 20, prediction=guess if id % 2 else (), strict=id % 5 == 0)
        )
        wanted[id] = said
        if id % 4 == 0:
            for found, outputs in finish(scheduler).items():
                assert tokens(outputs) == wanted[found]
    stats = scheduler.speculation_stats()
    assert stats["spec_accepted_tokens_prediction"] > 50
    assert 0 < stats["spec_accepted_tokens_ngram"] < stats["spec_draft_tokens_ngram"]


def test_a_right_prediction_saves_passes_and_is_told() -> None:
    """The finish says how many of the prediction's tokens held; others' outputs say nothing."""
    prompt = [2, 4, 1]
    said = answer(prompt, 20)
    scheduler, _ = make(Speculation(LIMITS.verify, FLAT))
    scheduler.submit(job(1, prompt, 20, prediction=tuple(said)))
    outputs = finish(scheduler)[1]
    assert tokens(outputs) == said
    assert outputs[-1].prediction[0] > len(said) // 2
    assert outputs[-1].prediction[1] == 0
    assert len(outputs) < len(said)
    assert all(output.prediction == (0, 0) for output in outputs[:-1])


def test_where_no_draft_can_pay_nobody_looks_for_one() -> None:
    """On a machine where every row costs as much as a token, jobs are only counted."""
    scheduler, _ = make(Speculation(LIMITS.verify, STEEP))
    scheduler.submit(job(1, [1, 2, 3] * 5, 8))
    finish(scheduler)
    stats = scheduler.speculation_stats()
    assert stats.pop("spec_off_cost") == 1
    assert not any(stats.values())


def test_nobody_drafts_beside_a_prompt() -> None:
    """While a chunk of a prompt shares the batch, it is full enough."""
    prompt = [2, 4, 1]
    limits = replace(LIMITS, context=128, cells=256)
    scheduler, _ = make(Speculation(limits.verify, FLAT), limits)
    scheduler.submit(job(1, prompt, 40, prediction=tuple(answer(prompt, 40))))
    scheduler.step()
    scheduler.submit(job(2, [1] * 60, 4))
    scheduler.step()
    assert scheduler.speculation_stats()["spec_off_busy"] == 1
    finish(scheduler)
    assert scheduler.speculation_stats()["spec_drafts_prediction"] > 0


def test_a_source_that_is_wrong_is_left_alone() -> None:
    """Guesses that hold one time in four are given up on where a row more costs 0.4 of a token."""
    costs = Costs.of({1: 1.0, 2: 1.4, 9: 4.0})
    speculation = Speculation(8, costs)
    chance = random.Random(2)
    drafted = []
    for id in range(60):
        prompt = [chance.randrange(4) for _ in range(12)]
        guessing = Drafting(speculation, Job(id=id, tokens=tuple(prompt), max_tokens=50))
        text = list(prompt)
        for _ in range(50):
            drafted.append(len(guessing.draft(text, 8, 1)))
            text.append(chance.randrange(4))
    assert sum(map(bool, drafted[1000:])) < 20
    assert speculation.counts["off_acceptance"] > 500


def test_a_models_drafts_are_verified_and_its_cells_follow() -> None:
    """A drafting model rewinds where the target said something else, and forgets who has ended."""
    model, engine = drafter()
    tokens = [3, 1, 4]
    assert model.draft(7, tokens, 3) == answer(tokens, 3)
    tokens += [answer(tokens, 1)[0], 9]
    assert model.draft(7, tokens, 3) == answer(tokens, 3)
    for other in (8, 9):
        assert model.draft(other, [other, 2], 2) == answer([other, 2], 2)
    assert model.draft(7, tokens, 1) == [follow(tokens)]  # its cells went to another; fed again
    for id in (7, 8, 9):
        model.drop(id)
    assert engine.used == 0


def test_a_long_prompt_is_caught_up_in_chunks() -> None:
    """A drafter that lags proposes nothing until it has read all that was said."""
    model, engine = drafter()
    prompt = [1] * (2 * CHUNK + 5)
    assert model.draft(1, prompt, 4) == []
    assert model.draft(1, prompt, 4) == []
    assert model.draft(1, prompt, 4) == answer(prompt, 4)
    assert max(map(len, engine.history)) == CHUNK


def test_a_drafter_without_cells_gives_all_of_them_up() -> None:
    """It fails quietly: no draft now, and from the beginning next time."""
    model, engine = drafter()
    model.draft(1, [1, 2], 2)
    engine.broken = True
    assert model.draft(1, [1, 2, 3], 2) == []
    engine.broken = False
    assert engine.used == 0
    assert model.draft(1, [1, 2, 3], 2) == answer([1, 2, 3], 2)


def test_a_good_model_is_found_out_and_used() -> None:
    """Tried for a few drafts, and then for good; the answers are the same."""
    model, _ = drafter()
    costs = Costs.of({1: 1.0, 5: 1.6})
    scheduler, _ = make(Speculation(LIMITS.verify, costs, model=model))
    saved = 0
    for id in range(1, 12):
        prompt = [id, 5, 2 * id % 14, 7]
        scheduler.submit(job(id, prompt, 40))
        outputs = finish(scheduler)[id]
        assert tokens(outputs) == answer(prompt, 40)
        saved += len(tokens(outputs)) - len(outputs)
    assert saved > 50
    assert scheduler.speculation_stats()["spec_accepted_tokens_model"] > 50


def test_a_bad_model_is_tried_more_and_more_seldom() -> None:
    """Between two attempts that fail lie twice as many tokens as before."""
    model, _ = drafter()
    speculation = Speculation(8, Costs.of({1: 1.0, 2: 1.7, 9: 4.2}), model=model)
    chance = random.Random(3)
    tried = []
    for id in range(400):
        text = [chance.randrange(15) for _ in range(4)]
        guessing = Drafting(speculation, Job(id=id, tokens=tuple(text), max_tokens=50))
        for _ in range(50):
            draft = guessing.draft(text, 8, 1)
            tried.append(bool(draft))
            if draft:
                guessing.settle(len(draft), 0)
            text.append(chance.randrange(15))
        guessing.close()
    assert 0 < sum(tried) < len(tried) * 0.02
    assert sum(tried[10 * FIRST_PAUSE :]) < len(tried) * 0.01
