"""What the next decode holds: rows of everybody who generates, chunks of prompts, drafts to verify.

Every step takes all sequences that generate, then prompt chunks with what is left of the budget, so
that a long prompt delays nobody by more than one chunk. Strict sequences, scored prompts and audits
have batches of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.engine.audit import Audit
from backends.engine.confidence import Confidence
from backends.engine.decoding import Decoder
from backends.engine.drafts import Lead
from backends.engine.protocol import Job
from backends.engine.slots import Limits, Rows, Slot


class Batches:
    """Plans; changes nothing but what drafts it takes."""

    def __init__(
        self, engine: Decoder, limits: Limits, audit: Audit, confidence: Confidence
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._audit = audit
        self._confidence = confidence

    def eligible(self, slots: Iterable[Slot]) -> list[Slot]:
        """Who has something to compute: not the paused, nor a drafter that is far enough ahead."""
        return [slot for slot in slots if not slot.paused and self._may_run(slot)]

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

    def plan(self, slots: Iterable[Slot]) -> list[list[Rows]]:
        """The step's batches: each strict sequence's own, and one for all others."""
        limits = self._limits
        eligible = sorted(self.eligible(slots), key=lambda s: (s.job.priority, s.job.id))
        alone = [[self._strict_rows(slot)] for slot in eligible if slot.job.strict]
        alone += [[self._scored_rows(slot)] for slot in eligible if _scoring(slot)]
        eligible = [slot for slot in eligible if not _scoring(slot)]
        audited = [slot for slot in eligible if slot.audit is not None and not slot.job.strict]
        alone += [[_audit_rows(slot)] for slot in audited]
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

    def _scored_rows(self, slot: Slot) -> Rows:
        end = min(slot.prompt, slot.fed + self._limits.scores)
        known = slot.tokens[slot.fed : end]
        return Rows(slot=slot, known=known, samples=len(known) == slot.due, scored=True)

    def _strict_rows(self, slot: Slot) -> Rows:
        if slot.audit is not None:
            return _audit_rows(slot)
        known = slot.tokens[slot.fed : slot.fed + self._limits.chunk]
        draft = self._draft_of(slot)
        pad = len(known) + len(draft) == 1
        samples = len(known) == slot.due
        return Rows(slot=slot, known=known, draft=draft, samples=samples, pad=pad)


def _scoring(slot: Slot) -> bool:
    return slot.scored is not None and slot.fed < slot.prompt


def _audit_rows(slot: Slot) -> Rows:
    known = slot.tokens[slot.fed : slot.fed + 1]
    return Rows(slot=slot, known=known, pad=slot.job.strict, audit=True)
