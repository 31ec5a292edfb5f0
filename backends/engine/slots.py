"""A scheduler's bounds and counters, a sequence in its place, and its part of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.engine.decoding import Decoder, Guesser, Sampler
from backends.engine.drafts import Inbox, Lead
from backends.engine.logprobs import Trail
from backends.engine.protocol import Job
from backends.engine.scored import ScoredPrompt
from backends.engine.speculate import Drafting, Speculation
from backends.engine.text import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`context` bounds one sequence, `cells` all reservations together, both in tokens.

    `batch` bounds a decode's rows, `verify` the draft tokens of one pass (0: none, the model cannot
    forget). `chunk` is how much of prompts a step takes while others generate, and the chunk of
    strict prompts. `parts`: each slot's cells are its own, so there are as many sequences as slots,
    and what has ended stays in slots that nobody needs; otherwise `cached` sequences more.
    `cached` bounds the ended sequences that stay in their cells (0: none), and
    `reuse` is the shortest beginning worth sharing. `optimism` is the share of `max_tokens` that an
    admission reserves; strict sequences, which cannot be parked, reserve all. `scores` bounds the
    rows of a scored prompt in one decode, each of which has its logits.
    """

    context: int
    cells: int
    slots: int = 4
    batch: int = 512
    chunk: int = 64
    verify: int = 8
    queue: int = 64
    cached: int = 0
    parts: bool = False
    reuse: int = 16
    optimism: float = 1.0
    scores: int = 8

    @property
    def sequences(self) -> int:
        return self.slots if self.parts else self.slots + self.cached


@dataclass(slots=True, kw_only=True)
class Slot:
    """A sequence in its place. `tokens` is prompt and generated; `fed` of them are in cells.

    `audit`: the position of the answer that is evaluated again before anything else.
    """

    job: Job
    sequence: int
    tokens: list[int]
    reserved: int
    sampler: Sampler | None
    text: TextStream
    inbox: Inbox | None = None
    drafting: Drafting | None = None
    lead: Lead | None = None
    guesser: Guesser | None = None
    audit: int | None = None
    trail: Trail | None = None
    scored: ScoredPrompt | None = None
    fed: int = 0
    paused: bool = False
    reused: int = 0
    parked: bool = False

    @property
    def whole(self) -> int:
        """Cells it needs at most."""
        return self.prompt + self.job.max_tokens

    @property
    def prompt(self) -> int:
        return len(self.job.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt

    @property
    def due(self) -> int:
        """Rows to feed before the next token can be sampled."""
        return len(self.tokens) - self.fed


def begun(job: Job, engine: Decoder, reserved: int, speculation: Speculation | None) -> Slot:
    """A slot for a job whose turn has come, without a sequence. Raises GrammarRefused."""
    drafts = job.role == "draft"
    return Slot(
        job=job,
        sequence=-1,
        tokens=list(job.tokens),
        reserved=reserved,
        sampler=None if drafts else engine.sampler(job),
        text=TextStream(job.stop),
        inbox=Inbox(engine.vocab) if job.role == "target" else None,
        drafting=speculation.begin(job) if speculation else None,
        lead=Lead(engine.vocab) if drafts else None,
        guesser=engine.guesser(job) if drafts else None,
        trail=None if job.logprobs is None else Trail(job.logprobs, engine.spelling),
        scored=(
            ScoredPrompt(job.tokens, job.logprobs or 0, engine.spelling) if job.scored else None
        ),
    )


@dataclass(slots=True, kw_only=True)
class Rows:
    """One slot's part of a batch: known tokens, then a draft to verify, then padding.

    `samples`: the known rows reach the sequence's end, so the next token is sampled after them.
    `scored`: they are of a prompt that is read back. `audit`: the only row is there already, and is
    computed to be compared.
    """

    slot: Slot
    known: list[int]
    draft: list[int] = field(default_factory=list)
    samples: bool = True
    pad: bool = False
    scored: bool = False
    audit: bool = False

    @property
    def width(self) -> int:
        return len(self.known) + len(self.draft) + self.pad

    @property
    def outputs(self) -> int:
        if self.scored:
            return len(self.known)
        return len(self.draft) + 1 if self.samples else 0


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counters since the worker's start. `steps` are those that computed something."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    cancelled: int = 0
    failed: int = 0
    not_a_number: int = 0
    prompt_rows: int = 0
    decode_rows: int = 0
    draft_rows: int = 0
    prefix_lookups: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0
    evictions: int = 0
    preemptions: int = 0
    expired: int = 0
    superseded: int = 0
    snapshots_saved: int = 0
    snapshots_restored: int = 0
    snapshot_tokens: int = 0
    audits_same: int = 0
    audits_tie: int = 0
    audits_mismatch: int = 0
