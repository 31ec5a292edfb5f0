"""The batching loop, with an engine that is a hash function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.constrained import NothingFits
from backends.engine.decoding import Floats, GrammarRefused, Sampler
from backends.engine.protocol import Job, Output
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from tests.fakes.decoder import VOCAB, FakeDecoder, answer

LIMITS = Limits(context=64, cells=128, slots=4, batch=32, chunk=8, verify=4, queue=8)


def make(limits: Limits = LIMITS) -> tuple[Scheduler, FakeDecoder]:
    engine = FakeDecoder(
        cells=limits.cells,
        batch=limits.batch,
        outputs=limits.slots * (limits.verify + 1),
    )
    return Scheduler(engine, limits), engine


def job(id: int, prompt: list[int] | None = None, max_tokens: int = 8, **more: object) -> Job:
    base = Job(id=id, tokens=tuple(prompt or [id % 14, 3, 5]), max_tokens=max_tokens)
    return replace(base, **more)  # type: ignore[arg-type]


def finish(scheduler: Scheduler, limit: int = 500) -> dict[int, list[Output]]:
    """Step until nothing is left to do; every id's outputs."""
    outputs: dict[int, list[Output]] = {}
    for _ in range(limit):
        for output in scheduler.step():
            outputs.setdefault(output.id, []).append(output)
        if scheduler.idle:
            return outputs
    raise AssertionError("the scheduler does not come to rest")


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def test_one_sequence() -> None:
    """A job generates what its model says, a token a step, and leaves nothing behind."""
    scheduler, engine = make()
    scheduler.submit(job(1))
    outputs = finish(scheduler)[1]
    assert tokens(outputs) == answer([1, 3, 5], 8)
    assert [output.base for output in outputs] == list(range(len(outputs)))
    assert outputs[-1].finish in ("stop", "length")
    assert outputs[-1].completion_tokens == len(tokens(outputs))
    assert engine.used == scheduler.cells.reserved == 0


def test_sequences_share_a_batch() -> None:
    """Sequences that generate are decoded together, in the order of their slots."""
    scheduler, engine = make()
    for id in (1, 2, 3):
        scheduler.submit(job(id))
    scheduler.step()
    scheduler.step()
    assert [sequence for sequence, _ in engine.history[1]] == [0, 1, 2]


def test_a_long_prompt_delays_nobody() -> None:
    """While others generate, a long prompt is fed in chunks beside their rows."""
    scheduler, engine = make()
    scheduler.submit(job(1, max_tokens=20))
    scheduler.step()
    scheduler.submit(job(2, prompt=[1] * 30))
    for _ in range(3):
        news = scheduler.step()
        assert [output.id for output in news] == [1]
        assert len(engine.history[-1]) == 1 + LIMITS.chunk


def test_a_lone_prompt_takes_the_whole_batch() -> None:
    """With nobody to delay, a prompt is fed in as few batches as it fits."""
    scheduler, engine = make()
    scheduler.submit(job(1, prompt=[1] * 40))
    scheduler.step()
    scheduler.step()
    assert [len(rows) for rows in engine.history] == [32, 8]


def test_completions_go_before_chat() -> None:
    """The queue is ordered by priority, then by arrival."""
    scheduler, _ = make(replace(LIMITS, slots=1))
    scheduler.submit(job(1, priority=1))
    scheduler.submit(job(2, priority=2))
    scheduler.submit(job(3, priority=0))
    scheduler.submit(job(4, priority=0))
    assert list(finish(scheduler)) == [3, 4, 1, 2]


def test_a_full_queue_refuses() -> None:
    """Beyond its bound, a job ends at once with `overloaded`."""
    scheduler, _ = make(replace(LIMITS, queue=2))
    for id in (1, 2, 3):
        scheduler.submit(job(id))
    refused = [output for output in scheduler.step() if output.finish == "error"]
    assert [(o.id, o.error) for o in refused] == [(3, "overloaded: 2 requests are waiting")]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"prompt": [VOCAB]}, "invalid"),
        ({"prompt": [-1]}, "invalid"),
        ({"max_tokens": 0}, "invalid"),
        ({"prompt": [1] * 60, "max_tokens": 5}, "too_long"),
    ],
)
def test_a_job_that_cannot_be_taken(bad: dict[str, object], word: str) -> None:
    """What could harm the engine, or never fit, never reaches it."""
    scheduler, engine = make()
    scheduler.submit(job(1, **bad))  # type: ignore[arg-type]
    (output,) = finish(scheduler)[1]
    assert output.finish == "error"
    assert output.error is not None and output.error.startswith(f"{word}: ")
    assert engine.history == []


def test_cancel_frees_cells_before_the_next_batch() -> None:
    """A cancelled sequence has no row in the next step and no cell after it."""
    scheduler, engine = make()
    scheduler.submit(job(1, max_tokens=40))
    scheduler.submit(job(2, max_tokens=40))
    scheduler.step()
    scheduler.cancel(1)
    assert engine.cells[0] == []
    news = scheduler.step()
    assert [(output.id, output.finish) for output in news] == [(1, "cancelled"), (2, None)]
    assert scheduler.cells.reserved == 43


def test_cancel_in_the_queue() -> None:
    """A job that still waits is cancelled without ever running."""
    scheduler, _ = make(replace(LIMITS, slots=1))
    scheduler.submit(job(1))
    scheduler.submit(job(2))
    scheduler.step()
    scheduler.cancel(2)
    assert [output.finish for output in finish(scheduler)[2]] == ["cancelled"]


def test_a_paused_sequence_is_left_out() -> None:
    """A sequence whose reader is behind generates nothing until it goes on."""
    scheduler, _ = make()
    scheduler.submit(job(1))
    scheduler.step()
    scheduler.pause(1, True)
    assert scheduler.idle
    scheduler.pause(1, False)
    assert finish(scheduler)[1][-1].finish is not None


def test_a_failed_batch_ends_its_sequences() -> None:
    """When the engine cannot run a batch, its sequences end with an error, and the next work."""
    scheduler, engine = make()
    scheduler.submit(job(1))
    engine.broken = True
    assert finish(scheduler)[1][-1].error == "failed: llama_decode returned 1"
    engine.broken = False
    scheduler.submit(job(2))
    assert tokens(finish(scheduler)[2]) == answer([2, 3, 5], 8)


def test_not_a_number_is_an_error() -> None:
    """A damaged model's output is never sampled from."""
    scheduler, engine = make()
    engine.not_a_number = True
    scheduler.submit(job(1))
    (output,) = finish(scheduler)[1]
    assert output.finish == "error"
    assert scheduler.stats.not_a_number == 1


def test_not_a_number_is_its_own_sequence_s_error() -> None:
    """Whichever row of a batch it is in: that sequence ends, with the word that the gateway acts
    on, and the others' tokens are right."""
    scheduler, engine = make()
    engine.spoilt = {2}
    for id in (1, 2, 3):
        scheduler.submit(job(id))
    ended = finish(scheduler)
    assert ended[2][-1].error is not None and ended[2][-1].error.startswith("not_a_number: ")
    for id in (1, 3):
        assert tokens(ended[id]) == answer([id, 3, 5], 8)
    assert scheduler.stats.not_a_number == 1


def test_a_stop_string_ends_the_text() -> None:
    """Text ends before the stop string; tokens behind it are not generated."""
    scheduler, _ = make()
    text = b"".join(b"%x" % token for token in answer([1, 3, 5], 8))
    scheduler.submit(job(1, stop=(text[3:5],)))
    outputs = finish(scheduler)[1]
    assert b"".join(output.text for output in outputs) == text[: text.find(text[3:5])]
    assert outputs[-1].finish == "stop"


def test_a_good_draft_is_verified_in_one_pass() -> None:
    """All tokens of a right draft come from one step, and one more that the pass gives for free."""
    scheduler, _ = make()
    right = answer([1, 3, 5], 8)
    scheduler.submit(job(1, role="target"))
    first = scheduler.step()
    scheduler.draft(1, 0, 1, right[1:4])
    (output,) = scheduler.step()
    assert tokens(first) == right[:1]
    assert list(output.tokens) == right[1:5]
    assert (output.source, output.drafted, output.accepted) == ("bonus", 3, 3)


def test_a_wrong_draft_costs_no_token() -> None:
    """At the first wrong token the target's own comes out, and the epoch goes up."""
    scheduler, engine = make()
    right = answer([1, 3, 5], 8)
    scheduler.submit(job(1, role="target"))
    scheduler.step()
    scheduler.draft(1, 0, 1, [right[1], (right[2] + 1) % VOCAB, 3])
    (output,) = scheduler.step()
    assert list(output.tokens) == right[1:3]
    assert (output.source, output.drafted, output.accepted, output.epoch) == ("draft", 3, 1, 1)
    assert len(engine.cells[0]) == 3 + 2  # prompt, and all but the newest token


def test_a_drafter_stays_ahead_by_so_much() -> None:
    """A drafter stops at its lead, goes on when confirmed, and rewinds when wrong."""
    scheduler, _ = make()
    guess = answer([1, 3, 5], 20)
    scheduler.submit(job(1, max_tokens=40, role="draft", ahead=3))
    assert tokens(finish(scheduler)[1]) == guess[:3]
    scheduler.sync(1, 0, 0, guess[:2])
    assert tokens(finish(scheduler)[1]) == guess[3:5]
    other = (guess[2] + 1) % 14
    scheduler.sync(1, 1, 2, [other])
    outputs = finish(scheduler)[1]
    assert tokens(outputs) == answer([1, 3, 5, *guess[:2], other], 3)
    assert [(o.base, o.epoch) for o in outputs] == [(3, 1), (4, 1), (5, 1)]


def test_strict_sequences_are_alone_and_never_narrow() -> None:
    """A strict sequence shares no batch and never has a single row, prompts included."""
    scheduler, engine = make()
    scheduler.submit(job(1, prompt=[1] * 17, strict=True))
    scheduler.submit(job(2, prompt=[1]))
    outputs = finish(scheduler)
    assert tokens(outputs[1]) == answer([1] * 17, 8)
    assert tokens(outputs[2]) == answer([1], 8)
    for rows in engine.history:
        sequences = {sequence for sequence, _ in rows}
        assert sequences == {1} or (sequences == {0} and len(rows) > 1)


def test_strict_batches_do_not_depend_on_company() -> None:
    """A strict sequence is decoded in the same pieces whoever else is there."""
    widths: list[list[int]] = []
    for company in (0, 3):
        scheduler, engine = make()
        scheduler.submit(job(0, prompt=[1] * 21, strict=True))
        for id in range(1, company + 1):
            scheduler.submit(job(id, prompt=[2] * 15))
        finish(scheduler)
        widths.append([len(rows) for rows in engine.history if rows[0][0] == 0])
    assert widths[0] == widths[1]


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, int, list[int], int]]:
    """What a gateway might say, in any order: (what, id, tokens, number)."""
    count = draw(st.integers(1, 40))
    return [
        (
            draw(st.sampled_from(["submit", "cancel", "draft", "sync", "pause", "step", "step"])),
            draw(st.integers(0, 9)),
            draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20)),
            draw(st.integers(0, 12)),
        )
        for _ in range(count)
    ]


@given(stories())
def test_whatever_happens_the_ledger_holds(story: list[tuple[str, int, list[int], int]]) -> None:
    """Any commands in any order: reservations fit, cells stay inside them, every job ends once, and
    every answer is the model's own."""
    scheduler, engine = make()
    jobs: dict[int, Job] = {}
    outputs: dict[int, list[Output]] = {}

    def step() -> None:
        for output in scheduler.step():
            outputs.setdefault(output.id, []).append(output)
        assert scheduler.cells.reserved <= LIMITS.cells
        for slot in scheduler.cells.slots.values():
            assert len(engine.cells.get(slot.sequence, [])) == slot.fed <= slot.reserved

    for what, id, some, number in story:
        if what == "submit" and id not in jobs:
            role = ("generate", "target", "draft")[id % 3]
            jobs[id] = job(id, some, 1 + number, role=role, ahead=4, strict=id % 2 == 0)
            scheduler.submit(jobs[id])
        elif what == "cancel":
            scheduler.cancel(id)
        elif what == "draft":
            scheduler.draft(id, number % 3, number, some)
        elif what == "sync":
            scheduler.sync(id, number % 3, number // 2, some)
        elif what == "pause":
            scheduler.pause(id, number % 2 == 0)
        else:
            step()
    for id, known in jobs.items():
        scheduler.pause(id, False)
        if known.role == "draft":
            scheduler.cancel(id)
    for _ in range(200):
        step()
    assert engine.used == scheduler.cells.reserved == scheduler.waiting == 0
    for id, known in jobs.items():
        assert [o.finish is not None for o in outputs[id]].index(True) == len(outputs[id]) - 1
        if known.role != "draft":
            said = tokens(outputs[id])
            assert said == answer(list(known.tokens), known.max_tokens)[: len(said)]
            if outputs[id][-1].finish in ("stop", "length"):
                assert said == answer(list(known.tokens), known.max_tokens)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=12))
def test_admission_is_fair(sizes: list[tuple[int, int]]) -> None:
    """Within a priority nobody overtakes: first tokens come no earlier than admission allows."""
    scheduler, _ = make(replace(LIMITS, cells=70, queue=20))
    admitted: list[int] = []
    for id, (prompt, count) in enumerate(sizes):
        scheduler.submit(job(id, [1] * prompt, count))
    while not scheduler.idle:
        scheduler.step()
        admitted += [s.job.id for s in scheduler.cells.slots.values() if s.job.id not in admitted]
    assert admitted == sorted(admitted)


def test_shown_tokens_are_spelled_out() -> None:
    """A job's `shown` tokens appear in its text by their spelling, and in no other's."""
    scheduler, _ = make()
    said = answer([1, 3, 5], 8)
    scheduler.submit(job(1, shown=(said[0],)))
    text = b"".join(output.text for output in finish(scheduler)[1])
    assert text.startswith(b"<%x>" % said[0])
    scheduler.submit(job(2, [1, 3, 5]))
    assert b"<" not in b"".join(output.text for output in finish(scheduler)[2])


class Picky(FakeDecoder):
    """Refuses the grammar "bad"; with "stuck", runs out of tokens after two."""

    def sampler(self, job: Job) -> Sampler | None:
        if job.grammar == "bad":
            raise GrammarRefused("it is bad")
        return Stuck() if job.grammar == "stuck" else None


class Stuck:
    def __init__(self) -> None:
        self.left = 2

    def __call__(self, logits: Floats) -> int:
        if not self.left:
            raise NothingFits("no token is left")
        self.left -= 1
        return 1

    def close(self) -> None:
        pass


def test_a_grammar_that_fails_takes_only_its_own_job() -> None:
    """A grammar that is refused, or leaves no token, ends its job; the others go on."""
    limits = LIMITS
    engine = Picky(cells=limits.cells, batch=limits.batch, outputs=20)
    scheduler = Scheduler(engine, limits)
    for id, grammar in ((1, "bad"), (2, ""), (3, "stuck")):
        scheduler.submit(job(id, [1, 3, 5], grammar=grammar))
    outputs = finish(scheduler)
    assert outputs[1][-1].error == "grammar: it is bad"
    assert tokens(outputs[2]) == answer([1, 3, 5], 8)
    assert tokens(outputs[3]) == [1, 1]
    assert (outputs[3][-1].error or "").endswith("no token is left")
    assert engine.used == scheduler.cells.reserved == 0
