"""The shadow audit: a verifier that does not verify is found out, and an honest one never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engine.audit import EVERY, TIE, Audit
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from tests.fakes.decoder import VOCAB, FakeDecoder, answer

PROMPT = [1, 3, 5]
CONTEXT = 4_096


class Endless(FakeDecoder):
    def ends(self, token: int) -> bool:
        return False


class Trusting(Scheduler):
    """Planted: whatever was drafted is taken for verified."""

    def _emit(self, rows: Any, logits: Any, greedy: Any) -> None:
        super()._emit(rows, logits, [*rows.draft, *greedy[len(rows.draft) :]])


class OffByOne(Scheduler):
    """Planted: a position's row is its neighbour's."""

    def _emit(self, rows: Any, logits: Any, greedy: Any) -> None:
        super()._emit(rows, logits, [*greedy[1:], greedy[0]] if rows.draft else greedy)


def run(
    verifier: type[Scheduler], *, strict: bool = False, right: bool, tokens: int = 1_000
) -> tuple[Scheduler, list[Output], Endless]:
    """One long answer, drafted rightly or always one past the right token."""
    engine = Endless(cells=CONTEXT, batch=64, outputs=64)
    scheduler = verifier(
        engine,
        Limits(context=CONTEXT, cells=CONTEXT, slots=1, batch=64, parts=True),
        audit=Audit(exact=True),
    )
    scheduler.submit(
        Job(id=1, tokens=tuple(PROMPT), max_tokens=tokens, role="target", strict=strict)
    )
    said: list[int] = []
    outputs: list[Output] = []
    while not outputs or outputs[-1].finish is None:
        new = scheduler.step()
        outputs += new
        for output in new:
            assert output.base == len(said)
            said += output.tokens
            line, draft = [*PROMPT, *said], []
            for _ in range(6):
                draft.append((_next(line) + (not right)) % VOCAB)
                line.append(draft[-1])
            scheduler.draft(1, output.epoch, len(said), draft)
    return scheduler, outputs, engine


def _next(line: list[int]) -> int:
    return answer(line, 1)[0]


@pytest.mark.parametrize("strict", [False, True])
def test_an_honest_verifier_passes(strict: bool) -> None:
    """Every hundredth token of passes with drafts is looked at, none is found wrong, and the answer
    is the same as without drafts."""
    scheduler, outputs, engine = run(Scheduler, strict=strict, right=True)
    said = [token for output in outputs for token in output.tokens]
    assert said == _endless(1_000)
    stats = scheduler.stats
    settled = sum(len(output.tokens) for output in outputs if output.drafted)
    assert stats.audits_same == (settled - len(outputs[-1].tokens)) // EVERY > 5
    assert stats.audits_tie == stats.audits_mismatch == 0
    assert all(output.trusted for output in outputs)
    rows = [len(batch) for batch in engine.history]
    assert rows.count(2 if strict else 1) >= stats.audits_same


def _endless(count: int) -> list[int]:
    line = list(PROMPT)
    while len(line) < count + len(PROMPT):
        line.append(_next(line))
    return line[len(PROMPT) :]


@pytest.mark.parametrize("verifier", [Trusting, OffByOne])
def test_a_wrong_verifier_is_caught(verifier: type[Scheduler]) -> None:
    """Within 1,000 tokens; from then on no draft is verified, and the outputs say why."""
    scheduler, outputs, _ = run(verifier, right=verifier is OffByOne, tokens=3_000)
    assert scheduler.stats.audits_mismatch == 1
    caught = next(at for at, output in enumerate(outputs) if not output.trusted)
    assert outputs[caught].base < 1_000
    assert all(output.drafted == 0 for output in outputs[caught:])
    assert any(output.drafted for output in outputs[:caught])


def test_a_sequence_parked_before_its_audit_is_not_judged_by_another_row() -> None:
    """What is parked has lost the row that was to be looked at; an honest verifier stays trusted,
    wherever in an answer that happens."""
    preemptions = 0
    for cells in range(300, 420, 7):
        engine = Endless(cells=cells, batch=64, outputs=64)
        limits = Limits(context=256, cells=cells, slots=2, batch=64, optimism=0.1)
        scheduler = Scheduler(engine, limits, audit=Audit(exact=True))
        said: dict[int, list[int]] = {1: [], 2: []}
        for id in said:
            scheduler.submit(Job(id=id, tokens=(id, 3, 5), max_tokens=250, role="target"))
        while not scheduler.idle:
            for output in scheduler.step():
                said[output.id] += output.tokens
            for id, tokens in said.items():
                draft: list[int] = []
                while len(draft) < 4:
                    draft.append(_next([id, 3, 5, *tokens, *draft]))
                scheduler.draft(id, 0, len(tokens), draft)
        preemptions += scheduler.stats.preemptions
        assert scheduler.stats.audits_mismatch == 0
        assert [len(tokens) for tokens in said.values()] == [250, 250]
    assert preemptions > 0


def test_a_tie_is_no_mismatch() -> None:
    """Where widths are not exact, another choice within the bound is called a tie."""
    logits = np.zeros(VOCAB, np.float32)
    logits[3], logits[4], logits[5] = 2.0, 2.0 - TIE / 2, 2.0 - 2 * TIE
    job = Job(id=1, tokens=(1,), max_tokens=9)
    for token, verdict in ((3, "same"), (4, "tie"), (5, "mismatch")):
        audit = Audit()
        assert audit.judge(job, [9, token], logits, None) == verdict
        assert audit.trusted is (verdict != "mismatch")
    strict = Job(id=1, tokens=(1,), max_tokens=9, strict=True)
    assert Audit(exact=True).judge(strict, [4], logits, None) == "mismatch"


SAMPLERS = {
    "greedy": SamplerSettings(),
    "sampled": SamplerSettings(temperature=0.8, top_p=0.95, seed=3),
    "penalties": SamplerSettings(temperature=0.8, seed=3, frequency_penalty=0.5, min_tokens=400),
}


@pytest.mark.parametrize("settings", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("wrong", [False, True], ids=["honest", "trusting"])
def test_a_real_target(stories: Path, settings: SamplerSettings, wrong: bool) -> None:
    """Real weights and samplers, their state rebuilt for each audit: an honest verifier is never
    doubted, one that trusts its drafts is found out within 1,000 tokens."""
    from backends.engine.llama import library
    from backends.engine.llama.decoder import LlamaDecoder
    from backends.engine.loading import load
    from backends.engine.settings import EngineSettings

    library.start()
    model, context, limits = load(
        EngineSettings(model=str(stories), context=1_024, slots=1, strict=True)
    )
    try:
        verifier = type("Wrong", (_TrustingSampled,), {}) if wrong else Scheduler
        scheduler = verifier(LlamaDecoder(model, context), limits, audit=Audit(exact=True))
        done = 0
        for seed in range(4):
            job = Job(
                id=seed + 1, tokens=(1, 403, 407, 261, 378), max_tokens=450, role="target",
                strict=True, sampler=settings,
            )  # fmt: skip
            alone = Scheduler(LlamaDecoder(model, context), limits)
            alone.submit(job)
            right = _drain(alone, job, [])
            scheduler.submit(job)
            line = right if not wrong else [(token + 1) % 500 + 5 for token in right]
            said = _drain(scheduler, job, line)
            done += len(said)
            if not wrong:
                assert said == right
            elif scheduler.stats.audits_mismatch:
                break
        if wrong:
            assert scheduler.stats.audits_mismatch == 1 and done <= 1_000
        else:
            assert scheduler.stats.audits_same >= 3
            assert scheduler.stats.audits_mismatch == 0
    finally:
        context.close()
        model.close()


class _TrustingSampled(Scheduler):
    def _emit(self, rows: Any, logits: Any, greedy: Any) -> None:
        for at, token in enumerate(rows.draft):
            logits[at] = -50.0
            logits[at][token] = 50.0
        super()._emit(rows, logits, logits.argmax(axis=1).tolist())


def _drain(scheduler: Scheduler, job: Job, drafted: list[int]) -> list[int]:
    said: list[int] = []
    while True:
        for output in scheduler.step():
            said += output.tokens
            if output.finish is not None:
                return said
            if drafted:
                at = len(said)
                scheduler.draft(job.id, output.epoch, at, drafted[at : at + 8])
