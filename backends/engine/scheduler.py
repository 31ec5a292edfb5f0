"""Continuous batching: which rows the next decode holds, and what its logits mean.

    WAIT ──admit──▶ PREFILL ──last prompt row──▶ DECODE ──stop, length, cancel──▶ DONE
      queue, by        chunks of the prompt,        one row a step, or a draft
      priority         under a token budget         and its verification

Every step takes all sequences that generate, then prompt chunks with what is left of the budget, so
that a long prompt delays nobody by more than one chunk. No state tells PREFILL from DECODE: a slot
knows its tokens and how many of them the KV cells hold (`fed`), and feeds the rest.

A sequence is admitted when a slot is free and its reservation (the prompt and a share of
`max_tokens`) fits beside those of the others. Reservations grow with their sequences; when they no
longer fit, the youngest of the lowest class is parked: it gives its cells up, keeps its tokens and
its sampler, and is fed again from the start when there is room for all of it. So a decode never
runs out of cells. The queue's order is waiting.py's; a small request does not overtake the next.

What has ended stays in its cells while nobody needs them, for whoever begins alike (prefix.py);
after that, if there is memory for it, as a snapshot (snapshots.py).

`strict` sequences are decoded alone, never in a batch of one row, their prompts in chunks whose
borders depend on nothing but the prompt. Why each of that is needed: design.md.

This module decides; the engine it is given does. Tests give it one without llama.cpp.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from backends.engine.audit import Audit
from backends.engine.confidence import Confidence, probability
from backends.engine.constrained import NothingFits
from backends.engine.decoding import NOT_NUMBERS, CellsFailed, Decoder, Floats, GrammarRefused
from backends.engine.drafts import Inbox, Lead
from backends.engine.gumbel import margin
from backends.engine.logprobs import Trail
from backends.engine.prefix import PrefixCache, common
from backends.engine.protocol import (
    EXPIRED,
    FAILED,
    GRAMMAR,
    INVALID,
    NOT_A_NUMBER,
    OVERLOADED,
    SUPERSEDED,
    TOO_LONG,
    Job,
    Output,
    Source,
)
from backends.engine.scored import ScoredPrompt
from backends.engine.slots import Limits, Rows, Slot, Stats
from backends.engine.snapshots import MARGIN, Snapshot, Snapshots
from backends.engine.speculate import Speculation
from backends.engine.text import TextStream
from backends.engine.waiting import DrainRate, Waiting

GROWTH = 32
"""Cells that a reservation grows by at once."""


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
        self._limits = limits
        self._clock = clock
        self._snapshots = snapshots
        self._speculation = speculation
        self._audit = audit or Audit()
        self._queue = Waiting()
        self._drain = DrainRate()
        self._confidence = Confidence()
        self._slots: dict[int, Slot] = {}
        self._parked: list[Slot] = []
        self._prefixes = PrefixCache()
        self._free = list(range(limits.sequences))
        self._news: list[Output] = []
        self.stats = Stats()

    # What the gateway says

    def submit(self, job: Job) -> None:
        """Queue a job. One that cannot be taken ends at once, with an Output that says why."""
        refusal = self._refusal(job)
        if refusal:
            self._news.append(Output(id=job.id, finish="error", error=refusal))
            return
        self._supersede(job)
        if len(self._queue) >= self._limits.queue:
            why = f"{OVERLOADED}: {self._limits.queue} requests are waiting"
            self._news.append(
                Output(id=job.id, finish="error", error=why, retry_after=self._retry_after())
            )
            return
        self._queue.push(job, self._clock())

    def cancel(self, id: int) -> None:
        """Drop a sequence, queued or running. Unknown ids are ignored: it has just ended."""
        if self._queue.remove(id):
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
        slot = self._find(id)
        if slot and slot.inbox:
            slot.inbox.put(epoch, base, tokens, slot.tokens[slot.prompt :])

    def sync(self, id: int, epoch: int, base: int, tokens: Sequence[int]) -> None:
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
            self._engine.remove(slot.sequence, same)
            slot.fed = same
        slot.tokens = new

    def pause(self, id: int, on: bool) -> None:
        if slot := self._find(id):
            slot.paused = on

    # One step

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing until somebody says something."""
        return not self._news and self._next() is None and not self._eligible()

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def reserved(self) -> int:
        return sum(slot.reserved for slot in self._slots.values())

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._parked)

    @property
    def cached(self) -> int:
        """Cells of ended sequences, which an admission takes when it needs them."""
        return self._prefixes.cells

    @property
    def used(self) -> int:
        """Cells that hold tokens; those that sequences share count once for each."""
        return self.cached + sum(slot.fed for slot in self._slots.values())

    def speculation_stats(self) -> dict[str, int]:
        """Counters of the drafts that this worker made itself."""
        return self._speculation.stats() if self._speculation else {}

    def slots(self) -> list[Slot]:
        return list(self._slots.values())

    def step(self, admitted: Callable[[list[int]], None] | None = None) -> list[Output]:
        """Admit, decode, sample; everything there is to tell, in order.

        `admitted` hears, before the decoding, who is computed for the first time.
        """
        self._expire()
        before = set(self._slots)
        while (who := self._next()) is not None:
            self._admit(who)
        self._grow()
        if admitted is not None and (new := [id for id in self._slots if id not in before]):
            admitted(new)
        batches = self._plan()
        for batch in batches:
            self._run(batch)
        self.stats.steps += bool(batches)
        news, self._news = self._news, []
        return news

    def shelve(self) -> None:
        """Before the end: a snapshot of everything that is idle, the last used last."""
        for sequence in self._prefixes.idlers():
            self._keep(sequence)

    def _refusal(self, job: Job) -> str | None:
        limits = self._limits
        vocab = self._engine.vocab
        if not job.tokens or job.max_tokens < 1:
            return f"{INVALID}: a job has a prompt and room for a token"
        if not all(0 <= token < vocab for token in job.tokens):
            return f"{INVALID}: token ids are 0 to {vocab - 1}"
        if job.role != "generate" and not limits.verify:
            return f"{INVALID}: sequences of this model cannot be rewound, so it cannot speculate"
        if job.scored and job.strict:
            return f"{INVALID}: the prompt of a strict sequence is not scored"
        need = self._need(job)
        if need > limits.context or need > limits.cells:
            return f"{TOO_LONG}: {need} tokens, the context has {limits.context}"
        return None

    def _need(self, job: Job) -> int:
        return len(job.tokens) + job.max_tokens

    def _find(self, id: int) -> Slot | None:
        """A sequence that has been admitted, whether it has its cells now or is parked."""
        slot = self._slots.get(id)
        return slot or next((slot for slot in self._parked if slot.job.id == id), None)

    def _retry_after(self) -> float:
        running = sum(slot.whole - slot.fed for slot in self._slots.values())
        return self._drain.wait(running + self._queue.tokens, self._clock())

    def _supersede(self, job: Job) -> None:
        """An editor that asks again has no use for what it asked before."""
        if not job.session or job.priority:
            return

        def older(other: Job) -> bool:
            mine = (job.tenant, job.session, job.priority)
            return (other.tenant, other.session, other.priority) == mine

        why = f"{SUPERSEDED}: a newer request of the same session has come"
        for waiting in [each for each in self._queue if older(each)]:
            self._queue.remove(waiting.id)
            self._end_superseded(waiting.id, why)
        for slot in [s for s in [*self._slots.values(), *self._parked] if older(s.job)]:
            self._end_superseded(slot.job.id, why)
            self._release(slot)

    def _end_superseded(self, id: int, why: str) -> None:
        self.stats.superseded += 1
        self._news.append(Output(id=id, finish="error", error=why))

    def _expire(self) -> None:
        for job in self._queue.expired(self._clock()):
            self.stats.expired += 1
            why = f"{EXPIRED}: its turn did not come before its deadline"
            self._news.append(Output(id=job.id, finish="error", error=why))

    # Admission

    def _next(self) -> Job | Slot | None:
        """Who is admitted now: the parked first, then the queue's first if it fits."""
        if len(self._slots) >= self._limits.slots or not (self._parked or self._queue):
            return None
        room = self._limits.cells - self.reserved
        if self._parked:
            return self._parked[0] if self._parked[0].whole <= room else None
        for job in self._queue.order(self._clock()):
            if not self._hold(job):
                return job if self._reservation(job) <= room else None
        return None

    def _hold(self, job: Job) -> bool:
        """Whether most of a prompt is being computed for another: then it waits for that, and the
        choices of one request, or an agent's parallel questions, cost one prompt."""
        if not self._limits.cached or job.strict or job.scored:
            return False
        usable = len(job.tokens) - 1
        least = max(self._limits.reuse, usable // 2)
        for slot in self._slots.values():
            if slot.fed >= slot.prompt or slot.job.strict or slot.paused:
                continue
            if slot.job.tenant == job.tenant and common(slot.job.tokens, job.tokens) >= least:
                return self._prefixes.match(job.tenant, job.tokens)[0] < least
        return False

    def _reservation(self, job: Job) -> int:
        if job.strict:
            return self._need(job)
        return len(job.tokens) + max(1, math.ceil(job.max_tokens * self._limits.optimism))

    def _admit(self, who: Job | Slot) -> None:
        if isinstance(who, Slot):
            slot = who
            self._parked.remove(slot)
            slot.reserved = slot.whole  # once is enough
        else:
            job = who
            self._queue.admit(job, self._need(job))
            try:
                sampler = None if job.role == "draft" else self._engine.sampler(job)
            except GrammarRefused as error:
                self._news.append(Output(id=job.id, finish="error", error=f"{GRAMMAR}: {error}"))
                return
            slot = Slot(
                job=job,
                sequence=-1,
                tokens=list(job.tokens),
                reserved=self._reservation(job),
                sampler=sampler,
                text=TextStream(job.stop),
                inbox=Inbox(self._engine.vocab) if job.role == "target" else None,
                drafting=self._speculation.begin(job) if self._speculation else None,
                lead=Lead(self._engine.vocab) if job.role == "draft" else None,
                guesser=self._engine.guesser(job) if job.role == "draft" else None,
                trail=None if job.logprobs is None else Trail(job.logprobs, self._engine.spelling),
                scored=(
                    ScoredPrompt(job.tokens, job.logprobs or 0, self._engine.spelling)
                    if job.scored
                    else None
                ),
            )
        self._place(slot)
        self._slots[slot.job.id] = slot

    def _place(self, slot: Slot) -> None:
        """Give it a sequence: one whose beginning it shares, or an empty one."""
        matched, owner = self._match(slot)
        snapshot = self._snapshot(slot, matched)
        if snapshot is not None:
            owner = None
        cells = self._limits.cells - self.reserved - slot.reserved
        if owner is not None and self._prefixes.idle(owner):
            length = self._prefixes.length(owner)
            others = self._prefixes.sequences > 1 or bool(self._free)
            if 2 * matched >= length or length > cells or not others:
                self._prefixes.drop(owner)
                self._engine.remove(owner, matched)
                slot.sequence, slot.fed = owner, matched
            else:
                self._prefixes.touch(owner)
        while self._prefixes.cells > cells:
            self._evict(but=owner)
        if slot.sequence < 0:
            if not self._free:
                self._evict(but=owner)
            slot.sequence = self._free.pop(
                0
            )  # the lowest, so that a batch's rows are of neighbours
            if owner is not None:
                self._engine.copy(owner, slot.sequence, matched)
                slot.fed = matched
            elif snapshot is not None:
                slot.fed = self._restore(slot, snapshot)
        if not slot.parked:
            slot.reused = slot.fed
        slot.parked = False

    def _match(self, slot: Slot) -> tuple[int, int | None]:
        """What need not be computed again. The last token always is: its logits are gone."""
        if not self._limits.cached or slot.job.strict or slot.job.scored:
            return 0, None
        self.stats.prefix_lookups += 1
        matched, owner = self._prefixes.match(slot.job.tenant, slot.tokens[:-1])
        for running in self._slots.values():
            if running.sequence == owner:
                matched = min(matched, running.fed)  # a drafter may have been rewound
        if owner is None or matched < self._limits.reuse:
            return 0, None
        self.stats.prefix_hits += 1
        self.stats.prefix_tokens += matched
        return matched, owner

    def _snapshot(self, slot: Slot, resident: int) -> Snapshot | None:
        """One that begins like a prompt for much longer than what is in the cells."""
        if self._snapshots is None or slot.job.strict or slot.job.scored:
            return None
        same, found = self._snapshots.match(slot.job.tenant, slot.tokens[:-1])
        return found if same >= resident + MARGIN else None

    def _restore(self, slot: Slot, snapshot: Snapshot) -> int:
        """Tokens that a sequence has in its cells now. Evictions may have overwritten it."""
        assert self._snapshots is not None
        room = self._limits.cells - self.reserved - self._prefixes.cells
        if snapshot not in self._snapshots or len(snapshot.tokens) > room:
            return 0
        with self._snapshots.state(snapshot) as state:
            if not self._engine.load(slot.sequence, state):
                return 0
        same = common(snapshot.tokens, tuple(slot.tokens[:-1]))
        self._engine.remove(slot.sequence, same)
        self.stats.snapshots_restored += 1
        self.stats.snapshot_tokens += same
        return same

    def _keep(self, sequence: int) -> None:
        tenant, tokens = self._prefixes.line(sequence)
        if self._snapshots is not None and len(tokens) >= MARGIN:
            with self._engine.save(sequence) as state:
                self.stats.snapshots_saved += self._snapshots.put(tenant, tokens, state)

    def _evict(self, *, but: int | None = None) -> None:
        sequence = self._prefixes.oldest(but=but)
        assert sequence is not None, "the ledger counts cells that nobody holds"
        self.stats.evictions += 1
        self._keep(sequence)
        self._empty(sequence)

    def _empty(self, sequence: int) -> None:
        self._prefixes.drop(sequence)
        self._engine.remove(sequence)
        self._free.append(sequence)
        self._free.sort()

    def _grow(self) -> None:
        """Make reservations hold what the next step feeds; park somebody if they cannot."""
        order = sorted(self._slots.values(), key=lambda s: (s.job.priority, s.job.id))
        for slot in order:
            if slot.job.id not in self._slots:
                continue
            need = min(slot.whole, len(slot.tokens) + self._limits.verify + 1)
            if need <= slot.reserved:
                continue
            while need - slot.reserved > self._limits.cells - self.reserved:
                victim = self._victim(slot)
                self._park(victim)
                if victim is slot:
                    break
            else:
                room = self._limits.cells - self.reserved
                slot.reserved += min(
                    room, max(need, min(slot.whole, need + GROWTH)) - slot.reserved
                )
        while self._prefixes.cells > self._limits.cells - self.reserved:
            self._evict()

    def _victim(self, growing: Slot) -> Slot:
        """The youngest of the lowest class; never a strict one, whose batches must not change."""
        victims = [slot for slot in self._slots.values() if not slot.job.strict]
        return max(victims, key=lambda s: (s.job.priority, s.job.id), default=growing)

    def _park(self, slot: Slot) -> None:
        self.stats.preemptions += 1
        del self._slots[slot.job.id]
        self._empty(slot.sequence)
        slot.sequence, slot.fed, slot.reserved, slot.parked = -1, 0, 0, True
        self._parked.append(slot)
        self._parked.sort(key=lambda s: (s.job.priority, s.job.id))

    def _release(self, slot: Slot, *, keep: bool = True) -> None:
        """Its end. What it holds stays for the next who begins alike, unless it is doubtful."""
        for owned in (slot.sampler, slot.guesser):
            if owned:
                owned.close()
        if slot.drafting:
            slot.drafting.close()
        self._drain.note(slot.whole, self._clock())
        if slot.sequence < 0:
            self._parked.remove(slot)
            return
        del self._slots[slot.job.id]
        held = slot.tokens[: slot.fed]
        worth = self._limits.cached and len(held) >= self._limits.reuse and not slot.job.strict
        if not keep or not worth:
            self._empty(slot.sequence)
            return
        self._engine.remove(slot.sequence, slot.fed)  # a draft's rows that did not hold
        for sequence in self._prefixes.covered(slot.job.tenant, held):
            self._empty(sequence)
        self._prefixes.put(slot.sequence, slot.job.tenant, held, idle=True)
        while self._prefixes.sequences > self._limits.cached:
            self._evict()

    def _eligible(self) -> list[Slot]:
        """Who has something to compute: not the paused, nor a drafter that is far enough ahead."""
        return [slot for slot in self._slots.values() if not slot.paused and self._may_run(slot)]

    def _may_run(self, slot: Slot) -> bool:
        if slot.lead is None:
            return True
        if slot.generated >= slot.job.max_tokens:
            return False
        if slot.generated and self._engine.ends(slot.tokens[-1]):
            return False
        if slot.due > 1:
            return True
        return slot.lead.ahead < slot.job.ahead and self._hopeful(slot.job, slot.lead)

    def _hopeful(self, job: Job, lead: Lead) -> bool:
        """Whether one more draft is likely enough to be used."""
        chance = 1.0
        for said in lead.said:
            chance *= self._confidence.chance(said)
        return chance >= job.floor

    def _plan(self) -> list[list[Rows]]:
        """The step's batches: each strict sequence's own, and one for all others."""
        limits = self._limits
        eligible = sorted(self._eligible(), key=lambda s: (s.job.priority, s.job.id))
        alone = [[self._strict_rows(slot)] for slot in eligible if slot.job.strict]
        alone += [[self._scored_rows(slot)] for slot in eligible if self._scoring(slot)]
        eligible = [slot for slot in eligible if not self._scoring(slot)]
        audited = [slot for slot in eligible if slot.audit is not None and not slot.job.strict]
        alone += [[self._audit_rows(slot)] for slot in audited]
        eligible = [slot for slot in eligible if slot not in audited]
        few = max(1, limits.verify)  # as many rows as a verification are no prompt
        decoding = [slot for slot in eligible if slot.due <= few]
        prompts = [slot for slot in eligible if slot.due > few]
        # A draft beside a prompt's chunk, or so many sequences, is one row more in a full batch.
        company = limits.batch if prompts else len(decoding)
        shared = [self._decode_rows(slot, company) for slot in decoding if not slot.job.strict]
        room = limits.batch - sum(rows.width for rows in shared)
        budget = min(room, limits.chunk if decoding else limits.batch)
        for slot in prompts:
            if slot.job.strict or budget <= 0:
                continue
            known = slot.tokens[slot.fed : slot.fed + budget]
            budget -= len(known)
            shared.append(Rows(slot=slot, known=known, samples=len(known) == slot.due))
        shared.sort(key=lambda rows: rows.slot.sequence)
        return [*alone, shared] if shared else alone

    def _decode_rows(self, slot: Slot, company: int) -> Rows:
        return Rows(slot=slot, known=slot.tokens[slot.fed :], draft=self._draft_of(slot, company))

    def _draft_of(self, slot: Slot, company: int = 1) -> list[int]:
        """Never so long that verifying it could need a cell beyond the reservation."""
        if slot.due != 1:
            return []
        most = min(self._limits.verify, slot.job.max_tokens - slot.generated - 1)
        if slot.drafting:
            return slot.drafting.draft(slot.tokens, most, company)
        if not slot.inbox or not self._audit.trusted:
            return []
        if slot.job.ahead:
            most = min(most, slot.job.ahead)
        return slot.inbox.take(slot.generated, most)

    @staticmethod
    def _scoring(slot: Slot) -> bool:
        return slot.scored is not None and slot.fed < slot.prompt

    def _scored_rows(self, slot: Slot) -> Rows:
        end = min(slot.prompt, slot.fed + self._limits.scores)
        known = slot.tokens[slot.fed : end]
        return Rows(slot=slot, known=known, samples=len(known) == slot.due, scored=True)

    @staticmethod
    def _audit_rows(slot: Slot) -> Rows:
        known = slot.tokens[slot.fed : slot.fed + 1]
        return Rows(slot=slot, known=known, pad=slot.job.strict, audit=True)

    def _strict_rows(self, slot: Slot) -> Rows:
        if slot.audit is not None:
            return self._audit_rows(slot)
        known = slot.tokens[slot.fed : slot.fed + self._limits.chunk]
        draft = self._draft_of(slot)
        pad = len(known) + len(draft) == 1
        samples = len(known) == slot.due
        return Rows(slot=slot, known=known, draft=draft, samples=samples, pad=pad)

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
            if slot.fed >= slot.prompt and self._limits.cached and not slot.job.strict:
                self._prefixes.put(slot.sequence, slot.job.tenant, slot.job.tokens, idle=False)
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
                token = greedy[0]
                if slot.guesser is not None:
                    token = slot.guesser.guess(logits[0], slot.generated)
                self._lead(slot, slot.lead, token, logits[0])
            else:
                self._emit(rows, logits, greedy)
        if slot.job.id in self._slots and slot.fed < before + rows.width:
            self._engine.remove(slot.sequence, slot.fed)

    def _lead(self, slot: Slot, lead: Lead, token: int, row: Floats) -> None:
        slot.tokens.append(token)
        lead.guess(token, probability(row, token) if slot.job.floor else None)
        self.stats.generated_tokens += 1
        self._news.append(
            Output(
                id=slot.job.id,
                base=slot.generated - 1,
                tokens=(token,),
                epoch=lead.epoch,
                prompt_tokens=slot.prompt,
                completion_tokens=slot.generated,
            )
        )

    def _emit(self, rows: Rows, logits: Floats, greedy: list[int]) -> None:
        """Sample position after position while the draft agrees, as if each had been alone.

        The sampler is asked once for every token that is emitted and never for one that is not, so
        its state (penalties, random numbers) is that of a run without drafts.
        """
        slot, draft = rows.slot, rows.draft
        base, text, emitted, accepted = slot.generated, b"", 0, 0
        raw = b""
        finish: str | None = None
        least: float | None = None
        for i in range(len(draft) + 1):
            try:
                token = slot.sampler(logits[i]) if slot.sampler else greedy[i]
            except NothingFits as error:
                # The request's doing, not the engine's: nobody must take this model for broken.
                self._fail([rows], str(error), word=GRAMMAR)
                return
            if slot.inbox is not None:
                above = slot.sampler.margin if slot.sampler else margin(logits[i], token)
                least = above if least is None else min(above, least)
            slot.tokens.append(token)
            emitted += 1
            held = i < len(draft) and token == draft[i]
            accepted += held
            if self._engine.ends(token):
                finish = "stop"
                text += slot.text.flush()
                break
            shown = token in slot.job.shown
            piece = self._engine.spelling(token) if shown else self._engine.piece(token)
            if slot.trail:
                slot.trail.add(logits[i], token, slot.text.pushed + len(piece))
            text += slot.text.push(piece)
            if slot.inbox is not None:
                raw += piece
            if slot.text.stopped:
                finish = "stop"
                break
            if slot.generated >= slot.job.max_tokens:
                finish = "length"
                text += slot.text.flush()
                break
            if not held:
                break
        slot.fed += emitted - 1  # the rows of accepted draft tokens; the newest token has none yet
        tokens = tuple(slot.tokens[slot.prompt + base :])
        epoch = 0
        if slot.inbox is not None:
            slot.inbox.commit(base, tokens)
            epoch = slot.inbox.epoch
        if slot.drafting and draft:
            slot.drafting.settle(len(draft), accepted)
        source: Source = "self" if not draft else "bonus" if emitted > len(draft) else "draft"
        self.stats.generated_tokens += emitted
        self.stats.drafted += len(draft)
        self.stats.accepted += accepted
        self._news.append(
            Output(
                id=slot.job.id,
                base=base,
                tokens=tokens,
                text=text,
                epoch=epoch,
                source=source,
                drafted=len(draft),
                accepted=accepted,
                finish=finish,
                prompt_tokens=slot.prompt,
                cached_tokens=slot.reused,
                completion_tokens=slot.generated,
                logprobs=slot.trail.take(slot.text.shown) if slot.trail else (),
                prediction=slot.drafting.prediction if slot.drafting and finish else (0, 0),
                margin=least,
                trusted=self._audit.trusted,
                raw=raw,
            )
        )
        if finish:
            self._release(slot)
        elif slot.inbox is not None and draft:
            slot.audit = self._audit.pick(base, emitted)
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
            self._news.append(Output(id=rows.slot.job.id, finish="error", error=f"{word}: {why}"))
            self._release(rows.slot, keep=False)
