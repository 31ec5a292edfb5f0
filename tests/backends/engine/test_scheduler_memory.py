"""What the scheduler keeps, shares, evicts and parks, with an engine that is a hash function."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.protocol import Job, Output
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from tests.fakes.clock import FakeClock
from tests.fakes.decoder import FakeDecoder, answer

LIMITS = Limits(
    context=64, cells=128, slots=4, batch=32, chunk=8, verify=4, queue=8,
    cached=3, reuse=4, optimism=0.25,
)  # fmt: skip
LONG = [(5 * i) % 14 for i in range(24)]


def make(limits: Limits = LIMITS, clock: FakeClock | None = None) -> tuple[Scheduler, FakeDecoder]:
    engine = FakeDecoder(
        cells=limits.cells, batch=limits.batch, outputs=limits.slots * (limits.verify + 1)
    )
    return Scheduler(engine, limits, clock or FakeClock()), engine


def job(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> Job:
    base = Job(id=id, tokens=tuple(prompt), max_tokens=max_tokens)
    return replace(base, **more)  # type: ignore[arg-type]


def finish(scheduler: Scheduler, limit: int = 2000) -> dict[int, list[Output]]:
    outputs: dict[int, list[Output]] = {}
    for _ in range(limit):
        for output in scheduler.step():
            outputs.setdefault(output.id, []).append(output)
        if scheduler.idle:
            return outputs
    raise AssertionError("the scheduler does not come to rest")


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def rows(engine: FakeDecoder) -> int:
    return sum(len(batch) for batch in engine.history)


def test_a_second_turn_feeds_only_what_is_new() -> None:
    """A prompt that goes on from an answer reuses its cells, says so, and gives the same text."""
    scheduler, engine = make()
    scheduler.submit(job(1, LONG))
    said = tokens(finish(scheduler)[1])
    held = len(LONG) + len(said) - 1
    before = rows(engine)
    second = [*LONG, *said, 3, 4, 5]
    scheduler.submit(job(2, second))
    outputs = finish(scheduler)[2]
    assert tokens(outputs) == answer(second, 8)
    assert outputs[-1].cached_tokens == held
    assert rows(engine) - before == len(second) - held + len(tokens(outputs)) - 1
    assert scheduler.stats.prefix_tokens == held


def test_tenants_never_share_a_cell() -> None:
    """The same prompt of another tenant is computed anew, whether the first runs or has ended."""
    scheduler, engine = make()
    scheduler.submit(job(1, LONG, tenant="a"))
    scheduler.submit(job(2, LONG, tenant="b"))
    first = finish(scheduler)
    scheduler.submit(job(3, LONG, tenant="c"))
    first |= finish(scheduler)
    assert [first[id][-1].cached_tokens for id in (1, 2, 3)] == [0, 0, 0]
    assert scheduler.stats.prefix_hits == 0
    assert sum(position == 0 for batch in engine.history for _, position in batch) == 3


def test_choices_cost_one_prompt() -> None:
    """Jobs with one prompt that come together wait for the first of them to compute it."""
    scheduler, engine = make()
    for id in (1, 2, 3):
        scheduler.submit(job(id, LONG))
    outputs = finish(scheduler)
    assert all(tokens(outputs[id]) == answer(LONG, 8) for id in (1, 2, 3))
    assert [outputs[id][-1].cached_tokens for id in (1, 2, 3)] == [0, 23, 23]
    assert sum(position < 23 for batch in engine.history for _, position in batch) == 23


def test_a_strict_sequence_reuses_nothing() -> None:
    """Strict chunks begin at the prompt's beginning, whatever lies in the cells."""
    scheduler, _ = make()
    scheduler.submit(job(1, LONG))
    finish(scheduler)
    scheduler.submit(job(2, LONG, strict=True))
    assert finish(scheduler)[2][-1].cached_tokens == 0


def test_the_cache_gives_way() -> None:
    """Cells of ended sequences are evicted for an admission that needs them."""
    scheduler, engine = make(replace(LIMITS, cells=64))
    scheduler.submit(job(1, LONG))
    finish(scheduler)
    assert scheduler.cells.cached > 0
    scheduler.submit(job(2, [9] * 50, 14))
    assert tokens(finish(scheduler)[2]) == answer([9] * 50, 14)
    assert scheduler.stats.evictions >= 1
    assert engine.used == scheduler.cells.cached <= 64


def test_a_parked_sequence_says_the_same() -> None:
    """When reservations were too hopeful, somebody waits, and every answer is still its own."""
    scheduler, _ = make(replace(LIMITS, cells=64, cached=0))
    prompts = {id: [id, 2, 4, 6] for id in (1, 3, 5, 7)}  # answers of full length
    for id, prompt in prompts.items():
        scheduler.submit(job(id, prompt, 40))
    outputs = finish(scheduler)
    assert scheduler.stats.preemptions > 0
    for id, prompt in prompts.items():
        assert tokens(outputs[id]) == answer(prompt, 40)
        assert [o.base for o in outputs[id]] == list(range(len(outputs[id])))


def test_the_newest_of_a_session_wins() -> None:
    """A newer completion ends the older ones of its editor, queued or running, and no others."""
    scheduler, _ = make(replace(LIMITS, slots=2))
    for id, tenant, session in ((1, "a", "x"), (2, "a", ""), (3, "a", "x"), (4, "b", "x")):
        scheduler.submit(job(id, [id, 1], tenant=tenant, session=session, priority=0))
        scheduler.step() if id == 1 else None
    outputs = finish(scheduler)
    assert (outputs[1][-1].error or "").startswith("superseded: ")
    assert [outputs[id][-1].finish in ("stop", "length") for id in (2, 3, 4)] == [True] * 3
    assert scheduler.stats.superseded == 1


def test_a_deadline_passes_in_the_queue() -> None:
    """Who waits past its deadline ends with `expired`; who runs goes on."""
    clock = FakeClock()
    scheduler, _ = make(replace(LIMITS, slots=1), clock)
    scheduler.submit(job(1, [1, 2], deadline=5.0))
    scheduler.submit(job(2, [2, 2], deadline=5.0))
    scheduler.step()
    clock.advance(6.0)
    outputs = finish(scheduler)
    assert outputs[1][-1].finish in ("stop", "length")
    assert (outputs[2][-1].error or "").startswith("expired: ")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "cancel", "draft", "sync", "step", "step"]),
            st.integers(0, 12),
            st.integers(0, 24),
            st.lists(st.integers(0, 13), max_size=6),
            st.integers(0, 30),
        ),
        max_size=40,
    ),
    st.integers(64, 130),
)
def test_whatever_happens_the_ledger_holds(
    story: list[tuple[str, int, int, list[int], int]], cells: int
) -> None:
    """Any commands in any order, prompts that begin alike, cells too few: the ledger is what the
    engine holds, every job ends once, and every answer is the model's own."""
    scheduler, engine = make(replace(LIMITS, cells=cells, queue=50))
    jobs: dict[int, Job] = {}
    outputs: dict[int, list[Output]] = {}

    def step() -> None:
        for output in scheduler.step():
            outputs.setdefault(output.id, []).append(output)
        assert scheduler.cells.reserved + scheduler.cells.cached <= cells
        assert engine.used == scheduler.cells.used
        for slot in scheduler.cells.slots.values():
            assert engine.cells.get(slot.sequence, []) == slot.tokens[: slot.fed]
            assert slot.fed <= slot.reserved

    for what, id, head, tail, number in story:
        if what == "submit" and id not in jobs:
            role = ("generate", "target", "draft", "generate")[id % 4]
            prompt = [*LONG[:head], *tail] or [1]
            tenant = "ab"[id % 2]
            jobs[id] = job(
                id, prompt, 1 + number, role=role, ahead=4, strict=id == 9, tenant=tenant,
                priority=id % 3, session="s" if id in (3, 6) else "",
            )  # fmt: skip
            scheduler.submit(jobs[id])
        elif what == "cancel":
            scheduler.cancel(id)
        elif what == "draft":
            scheduler.draft(id, number % 3, number, tail)
        elif what == "sync":
            scheduler.sync(id, number % 3, number // 2, tail)
        else:
            step()
    for id, known in jobs.items():
        if known.role == "draft":
            scheduler.cancel(id)
    for _ in range(500):
        step()
    assert scheduler.cells.reserved == scheduler.waiting == 0
    assert engine.used == scheduler.cells.cached
    for id, known in jobs.items():
        assert [o.finish is not None for o in outputs[id]].index(True) == len(outputs[id]) - 1
        if known.role != "draft":
            said = tokens(outputs[id])
            whole = answer(list(known.tokens), known.max_tokens)
            assert said == whole[: len(said)]
            if outputs[id][-1].finish in ("stop", "length"):
                assert said == whole
