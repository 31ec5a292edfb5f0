"""Continuous batching: who is admitted, which rows a step decodes, and what its logits mean.

    WAIT ──admit──▶ PREFILL ──last prompt row──▶ DECODE ──stop, length, cancel──▶ DONE
      queue, by        chunks of the prompt,        one row a step, or a draft
      priority         under a token budget         and its verification

No state tells PREFILL from DECODE: a slot knows its tokens and how many of them the KV cells hold
(`fed`), and feeds the rest. Who comes in, and who must go out again for a while, is admission.py's;
which cells it gets cells.py's, a step's rows batches.py's, and what their logits say emission.py's.

`strict` sequences are decoded alone, never in a batch of one row, their prompts in chunks whose
borders depend on nothing but the prompt. Why each of that is needed: design.md.

This module decides; the engine it is given does. Tests give it one without llama.cpp.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from backends.engine.admission import Admission
from backends.engine.audit import Audit
from backends.engine.batches import Batches
from backends.engine.cells import Cells
from backends.engine.confidence import Confidence, probability
from backends.engine.constrained import NothingFits
from backends.engine.decoding import NOT_NUMBERS, CellsFailed, Decoder, Floats, GrammarRefused
from backends.engine.drafts import Lead
from backends.engine.emission import emit, lead
from backends.engine.protocol import (
    EXPIRED,
    FAILED,
    GRAMMAR,
    NOT_A_NUMBER,
    OVERLOADED,
    SUPERSEDED,
    Job,
    Output,
)
from backends.engine.slots import Limits, Rows, Slot, Stats, begun
from backends.engine.snapshots import Snapshots
from backends.engine.speculate import Speculation


class Scheduler:
    """Owns the sequences. All calls come from one thread."""

    def __init__(
        self,
        engine: Decoder,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        snapshots: Snapshots | None = None,
        speculation: Speculation | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._engine = engine
        self.limits = limits
        self._speculation = speculation
        self._audit = audit or Audit()
        self._confidence = Confidence()
        self._news: list[Output] = []
        self.stats = Stats()
        self.cells = Cells(engine, limits, self.stats, snapshots)
        self._admission = Admission(self.cells, limits, self.stats, engine.vocab, clock)
        self._batches = Batches(engine, limits, self._audit, self._confidence)

    # What the gateway says

    def submit(self, job: Job) -> None:
        """Queue a job. One that cannot be taken ends at once, with an Output that says why."""
        if refusal := self._admission.refusal(job):
            self._end(job.id, refusal)
            return
        self._supersede(job)
        if self._admission.full:
            why = f"{OVERLOADED}: {self.limits.queue} requests are waiting"
            self._end(job.id, why, self._admission.retry_after())
            return
        self._admission.push(job)

    def cancel(self, id: int) -> None:
        """Drop a sequence, queued or running. Unknown ids are ignored: it has just ended."""
        if self._admission.remove(id):
            self._news.append(Output(id=id, finish="cancelled"))
        elif slot := self._find(id):
            self._news.append(
                Output(
                    id=id,
                    base=slot.generated,
                    finish="cancelled",
                    prompt_tokens=slot.prompt,
                    completion_tokens=slot.generated,
                )
            )
            self._release(slot)
        else:
            return
        self.stats.cancelled += 1

    def draft(self, id: int, epoch: int, base: int, tokens: Sequence[int]) -> None:
        """Role target: tokens that somebody proposes from position `base` of the answer on."""
        slot = self._find(id)
        if slot and slot.inbox:
            slot.inbox.put(epoch, base, tokens, slot.tokens[slot.prompt :])

    def sync(self, id: int, epoch: int, base: int, tokens: Sequence[int]) -> None:
        """Role draft: what the target committed from position `base` of the answer on."""
        slot = self._find(id)
        if not slot or not slot.lead:
            return
        tokens = tokens[: max(0, slot.job.max_tokens - base)]
        for said, held in slot.lead.compared(base, tokens):
            self._confidence.see(said, held=held)
        slot.lead.sync(epoch, base, tokens)
        old, new = slot.tokens, [*slot.job.tokens, *slot.lead.tokens]
        same = next((i for i in range(slot.fed) if i >= len(new) or old[i] != new[i]), slot.fed)
        # The last token must be fed again even if it is there: its logits are gone.
        same = max(0, min(same, len(new) - 1))
        if same < slot.fed:
            slot.fed = same
            self.cells.rewind(slot)
        slot.tokens = new

    def pause(self, id: int, on: bool) -> None:
        """Leave a sequence out of the steps, or take it in again."""
        if slot := self._find(id):
            slot.paused = on

    # One step

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing until somebody says something."""
        return not (
            self._news
            or self._admission.next() is not None
            or self._batches.eligible(self.cells.slots.values())
        )

    @property
    def waiting(self) -> int:
        return len(self._admission)

    def speculation_stats(self) -> dict[str, int]:
        """Counters of the drafts that this worker made itself."""
        return self._speculation.stats() if self._speculation else {}

    def step(self, admitted: Callable[[list[int]], None] | None = None) -> list[Output]:
        """Admit, decode, sample; everything there is to tell, in order.

        `admitted` hears, before the decoding, who is computed for the first time.
        """
        self._expire()
        before = set(self.cells.slots)
        while (who := self._admission.next()) is not None:
            self._admit(who)
        self._admission.grow()
        if admitted is not None and (new := [id for id in self.cells.slots if id not in before]):
            admitted(new)
        batches = self._batches.plan(self.cells.slots.values())
        for batch in batches:
            self._run(batch)
        self.stats.steps += bool(batches)
        news, self._news = self._news, []
        return news

    def shelve(self) -> None:
        """Before the end: a snapshot of everything that is idle, the last used last."""
        self.cells.shelve()

    def _find(self, id: int) -> Slot | None:
        """A sequence that has been admitted, whether it has its cells now or is parked."""
        slot = self.cells.slots.get(id)
        return slot or next((slot for slot in self._admission.parked if slot.job.id == id), None)

    def _end(self, id: int, why: str, retry_after: float | None = None) -> None:
        self._news.append(Output(id=id, finish="error", error=why, retry_after=retry_after))

    def _supersede(self, job: Job) -> None:
        """An editor that asks again has no use for what it asked before."""
        if not job.session or job.priority:
            return

        def older(other: Job) -> bool:
            mine = (job.tenant, job.session, job.priority)
            return (other.tenant, other.session, other.priority) == mine

        why = f"{SUPERSEDED}: a newer request of the same session has come"
        for waiting in [each for each in self._admission.queued if older(each)]:
            self._admission.remove(waiting.id)
            self.stats.superseded += 1
            self._end(waiting.id, why)
        admitted = [*self.cells.slots.values(), *self._admission.parked]
        for slot in [each for each in admitted if older(each.job)]:
            self.stats.superseded += 1
            self._end(slot.job.id, why)
            self._release(slot)

    def _expire(self) -> None:
        for job in self._admission.expired():
            self.stats.expired += 1
            self._end(job.id, f"{EXPIRED}: its turn did not come before its deadline")

    def _admit(self, who: Job | Slot) -> None:
        if isinstance(who, Slot):
            self._admission.unpark(who)
            who.reserved = who.whole  # once is enough
            self.cells.place(who)
            return
        self._admission.take(who)
        try:
            slot = begun(who, self._engine, self._admission.reservation(who), self._speculation)
        except GrammarRefused as error:
            self._end(who.id, f"{GRAMMAR}: {error}")
            return
        self.cells.place(slot)

    def _release(self, slot: Slot, *, keep: bool = True) -> None:
        """Its end. What it holds stays for the next who begins alike, unless it is doubtful."""
        for owned in (slot.sampler, slot.guesser, slot.drafting):
            if owned:
                owned.close()
        self._admission.drained(slot)
        if slot.parked:
            self._admission.unpark(slot)
        elif keep:
            self.cells.leave(slot)
        else:
            self.cells.clear(slot)

    def _run(self, batch: list[Rows]) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[bool] = []
        for rows in batch:
            line = [*rows.known, *rows.draft, *([rows.known[-1]] if rows.pad else [])]
            start = rows.slot.fed
            tokens += line
            positions += range(start, start + len(line))
            sequences += [rows.slot.sequence] * len(line)
            first = 0 if rows.scored else len(rows.known) - 1
            wanted += [rows.outputs > 0 and 0 <= i - first < rows.outputs for i in range(len(line))]
        try:
            logits = self._engine.decode(tokens, positions, sequences, wanted)
        except CellsFailed as error:
            self._fail(batch, str(error))
            return
        greedy = logits.argmax(axis=1).tolist() if len(logits) else []
        at = 0
        for rows in batch:
            ours, likeliest = logits[at : at + rows.outputs], greedy[at : at + rows.outputs]
            at += rows.outputs
            # argmax takes a NaN for the largest: one look at its choice tells of all the row.
            if any(math.isnan(row[token]) for row, token in zip(ours, likeliest, strict=True)):
                self.stats.not_a_number += 1
                self._fail([rows], NOT_NUMBERS, NOT_A_NUMBER)
            else:
                self._absorb(rows, ours, likeliest)

    def _absorb(self, rows: Rows, logits: Floats, greedy: list[int]) -> None:
        slot = rows.slot
        before = slot.fed
        slot.fed += len(rows.known)
        if before < slot.prompt:
            self.stats.prompt_tokens += len(rows.known)
            self.stats.prompt_rows += len(rows.known)
            if slot.fed >= slot.prompt:
                self.cells.share(slot)
        else:
            self.stats.decode_rows += len(rows.known)
        self.stats.draft_rows += len(rows.draft)
        if rows.scored and slot.scored is not None:
            text, entries = slot.scored.read(before, logits)
            self._news.append(Output(id=slot.job.id, text=text, logprobs=entries, prompt=True))
            logits, greedy = logits[-1:], greedy[-1:]
        if rows.audit:
            self._judge(slot, logits[0])
        elif rows.samples:
            if slot.lead is not None:
                self._lead(slot, slot.lead, logits[0], greedy[0])
            else:
                self._emit(rows, logits, greedy)
        if slot.job.id in self.cells.slots and slot.fed < before + rows.width:
            self.cells.rewind(slot)

    def _lead(self, slot: Slot, line: Lead, row: Floats, token: int) -> None:
        """A drafter's next guess; `token` is the likeliest."""
        if slot.guesser is not None:
            token = slot.guesser.guess(row, slot.generated)
        slot.tokens.append(token)
        line.guess(token, probability(row, token) if slot.job.floor else None)
        self.stats.generated_tokens += 1
        self._news.append(lead(slot, token))

    def _emit(self, rows: Rows, logits: Floats, greedy: list[int]) -> None:
        slot = rows.slot
        try:
            said = emit(rows, logits, greedy, self._engine, trusted=self._audit.trusted)
        except NothingFits as error:
            # The request's doing, not the engine's: nobody must take this model for broken.
            self._fail([rows], str(error), word=GRAMMAR)
            return
        self.stats.generated_tokens += len(said.tokens)
        self.stats.drafted += said.drafted
        self.stats.accepted += said.accepted
        self._news.append(said)
        if said.finish:
            self._release(slot)
        elif slot.inbox is not None and rows.draft:
            slot.audit = self._audit.pick(said.base, len(said.tokens))
            if slot.audit is not None:
                # Back to the row before it; what follows is fed again as after any rewind.
                slot.fed = slot.prompt + slot.audit - 1

    def _judge(self, slot: Slot, logits: Floats) -> None:
        """Is what a draft settled what the target says by itself?"""
        at, slot.audit = slot.audit, None
        if at is None or (slot.job.sampler.temperature > 0 and slot.job.sampler.seed is None):
            return  # another seed, another answer
        sampler = self._engine.sampler(slot.job)
        try:
            said = slot.tokens[slot.prompt : slot.prompt + at + 1]
            verdict = self._audit.judge(slot.job, said, logits, sampler)
        except NothingFits:
            return
        finally:
            if sampler is not None:
                sampler.close()
        match verdict:
            case "same":
                self.stats.audits_same += 1
            case "tie":
                self.stats.audits_tie += 1
            case "mismatch":
                self.stats.audits_mismatch += 1

    def _fail(self, batch: list[Rows], why: str, word: str = FAILED) -> None:
        for rows in batch:
            self.stats.failed += 1
            self._end(rows.slot.job.id, f"{word}: {why}")
            self._release(rows.slot, keep=False)
