"""Which sequence has which cells: those that run, what ended and stays, what was saved of others.

What has ended stays in its cells while nobody needs them, for whoever begins alike (prefix.py);
after that, if there is memory for it, as a snapshot (snapshots.py). A new sequence claims such
cells, shares the beginning of another's, or is filled from a snapshot; else it begins empty.
"""

from __future__ import annotations

from backends.engine.decoding import Decoder
from backends.engine.prefix import PrefixCache, common
from backends.engine.protocol import Job
from backends.engine.slots import Limits, Slot, Stats
from backends.engine.snapshots import MARGIN, Snapshot, Snapshots


class Cells:
    """`slots` are the sequences in their places, by their job's id; what they reserve fits."""

    def __init__(
        self, engine: Decoder, limits: Limits, stats: Stats, snapshots: Snapshots | None
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._stats = stats
        self._snapshots = snapshots
        self._prefixes = PrefixCache()
        self._free = list(range(limits.sequences))
        self.slots: dict[int, Slot] = {}

    @property
    def reserved(self) -> int:
        return sum(slot.reserved for slot in self.slots.values())

    @property
    def room(self) -> int:
        """Cells that nobody has reserved, whatever is still in them."""
        return self._limits.cells - self.reserved

    @property
    def cached(self) -> int:
        """Cells of ended sequences, which an admission takes when it needs them."""
        return self._prefixes.cells

    @property
    def used(self) -> int:
        """Cells that hold tokens; those that sequences share count once for each."""
        return self.cached + sum(slot.fed for slot in self.slots.values())

    def awaits(self, job: Job) -> bool:
        """Whether most of a prompt is being computed for another: then it waits for that, and the
        choices of one request, or an agent's parallel questions, cost one prompt."""
        if not self._limits.cached or job.strict or job.scored:
            return False
        usable = len(job.tokens) - 1
        least = max(self._limits.reuse, usable // 2)
        for slot in self.slots.values():
            if slot.fed >= slot.prompt or slot.job.strict or slot.paused:
                continue
            if slot.job.tenant == job.tenant and common(slot.job.tokens, job.tokens) >= least:
                return self._prefixes.match(job.tenant, job.tokens)[0] < least
        return False

    def place(self, slot: Slot) -> None:
        """Give it a sequence: one whose beginning it shares, or an empty one."""
        matched, owner = self._match(slot)
        snapshot = self._snapshot(slot, matched)
        if snapshot is not None:
            owner = None
        cells = self.room - slot.reserved
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
            # The lowest, so that a batch's rows are of neighbours.
            slot.sequence = self._free.pop(0)
            if owner is not None:
                self._engine.copy(owner, slot.sequence, matched)
                slot.fed = matched
            elif snapshot is not None:
                slot.fed = self._restore(slot, snapshot)
        if not slot.parked:
            slot.reused = slot.fed
        slot.parked = False
        self.slots[slot.job.id] = slot

    def share(self, slot: Slot) -> None:
        """Its prompt is computed: who begins alike may begin with it."""
        if self._limits.cached and not slot.job.strict:
            self._prefixes.put(slot.sequence, slot.job.tenant, slot.job.tokens, idle=False)

    def rewind(self, slot: Slot) -> None:
        """Free what lies behind its last fed token."""
        self._engine.remove(slot.sequence, slot.fed)

    def clear(self, slot: Slot) -> None:
        """Its cells are anybody's, and nothing of it stays."""
        del self.slots[slot.job.id]
        self._empty(slot.sequence)

    def leave(self, slot: Slot) -> None:
        """It has ended; what it holds stays for the next who begins alike, if that is worth it."""
        held = slot.tokens[: slot.fed]
        if not self._limits.cached or len(held) < self._limits.reuse or slot.job.strict:
            self.clear(slot)
            return
        del self.slots[slot.job.id]
        self.rewind(slot)  # a draft's rows that did not hold
        for sequence in self._prefixes.covered(slot.job.tenant, held):
            self._empty(sequence)
        self._prefixes.put(slot.sequence, slot.job.tenant, held, idle=True)
        while self._prefixes.sequences > self._limits.cached:
            self._evict()

    def trim(self) -> None:
        """Evict until what stays of the ended leaves the reserved their room."""
        while self._prefixes.cells > self.room:
            self._evict()

    def shelve(self) -> None:
        """Before the end: a snapshot of everything that is idle, the last used last."""
        for sequence in self._prefixes.idlers():
            self._keep(sequence)

    def _match(self, slot: Slot) -> tuple[int, int | None]:
        """What need not be computed again. The last token always is: its logits are gone."""
        if not self._limits.cached or slot.job.strict or slot.job.scored:
            return 0, None
        self._stats.prefix_lookups += 1
        matched, owner = self._prefixes.match(slot.job.tenant, slot.tokens[:-1])
        for running in self.slots.values():
            if running.sequence == owner:
                matched = min(matched, running.fed)  # a drafter may have been rewound
        if owner is None or matched < self._limits.reuse:
            return 0, None
        self._stats.prefix_hits += 1
        self._stats.prefix_tokens += matched
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
        room = self.room - self._prefixes.cells
        if snapshot not in self._snapshots or len(snapshot.tokens) > room:
            return 0
        with self._snapshots.state(snapshot) as state:
            if not self._engine.load(slot.sequence, state):
                return 0
        same = common(snapshot.tokens, tuple(slot.tokens[:-1]))
        self._engine.remove(slot.sequence, same)
        self._stats.snapshots_restored += 1
        self._stats.snapshot_tokens += same
        return same

    def _keep(self, sequence: int) -> None:
        tenant, tokens = self._prefixes.line(sequence)
        if self._snapshots is not None and len(tokens) >= MARGIN:
            with self._engine.save(sequence) as state:
                self._stats.snapshots_saved += self._snapshots.put(tenant, tokens, state)

    def _evict(self, *, but: int | None = None) -> None:
        sequence = self._prefixes.oldest(but=but)
        assert sequence is not None, "the ledger counts cells that nobody holds"
        self._stats.evictions += 1
        self._keep(sequence)
        self._empty(sequence)

    def _empty(self, sequence: int) -> None:
        self._prefixes.drop(sequence)
        self._engine.remove(sequence)
        self._free.append(sequence)
        self._free.sort()
