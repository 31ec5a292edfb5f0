"""Which resident sequence begins like a new prompt: a radix tree over token ids, for each tenant.

The tree says where tokens lie and never touches a cell; the scheduler copies and removes. Trees of
two tenants have nothing in common, so nobody can tell from an answer's speed what another asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    return next(i for i in range(size) if a[i] != b[i])


@dataclass(slots=True)
class _Node:
    """`edge` leads here from the parent; `owners` are all sequences whose tokens pass through."""

    edge: tuple[int, ...] = ()
    owners: set[int] = field(default_factory=set)
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixCache:
    """Resident sequences by what they hold. Those nobody runs are `idle`, oldest use first."""

    def __init__(self) -> None:
        self._roots: dict[str, _Node] = {}
        self._held: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.cells = 0
        """Tokens of idle sequences. One that two of them share counts twice: an upper bound."""

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._held

    def idle(self, sequence: int) -> bool:
        return sequence in self._idle

    @property
    def sequences(self) -> int:
        """How many are idle."""
        return len(self._idle)

    def length(self, sequence: int) -> int:
        return len(self._held[sequence][1])

    def line(self, sequence: int) -> tuple[str, tuple[int, ...]]:
        """(tenant, tokens)"""
        return self._held[sequence]

    def put(self, sequence: int, tenant: str, tokens: Sequence[int], *, idle: bool) -> None:
        """A sequence holds these tokens now, whatever it held before."""
        self.drop(sequence)
        line = tuple(tokens)
        self._held[sequence] = tenant, line
        node, at = self._roots.setdefault(tenant, _Node()), 0
        node.owners.add(sequence)
        while at < len(line):
            child = node.children.get(line[at])
            if child is None:
                node.children[line[at]] = _Node(line[at:], {sequence})
                break
            same = common(child.edge, line[at : at + len(child.edge)])
            if same < len(child.edge):
                upper = _Node(child.edge[:same], set(child.owners))
                upper.children[child.edge[same]] = child
                node.children[line[at]] = upper
                child.edge = child.edge[same:]
                child = upper
            child.owners.add(sequence)
            node, at = child, at + same
        if idle:
            self._idle[sequence] = None
            self.cells += len(line)

    def drop(self, sequence: int) -> None:
        """Forget a sequence, if it is known."""
        if sequence not in self._held:
            return
        tenant, line = self._held.pop(sequence)
        if sequence in self._idle:
            del self._idle[sequence]
            self.cells -= len(line)
        root = self._roots[tenant]
        root.owners.discard(sequence)
        if not root.owners:
            del self._roots[tenant]
            return
        node, at = root, 0
        while at < len(line):
            child = node.children[line[at]]
            child.owners.discard(sequence)
            if not child.owners:
                del node.children[line[at]]
                return
            node, at = child, at + len(child.edge)

    def match(self, tenant: str, tokens: Sequence[int]) -> tuple[int, int | None]:
        """The longest known beginning of `tokens`: its length, and a sequence that holds it.

        Of several the one whose use is longest ago that is idle, since it can be claimed.
        """
        line = tuple(tokens)
        node = self._roots.get(tenant)
        if node is None:
            return 0, None
        at = 0
        while at < len(line) and (child := node.children.get(line[at])) is not None:
            same = common(child.edge, line[at : at + len(child.edge)])
            node, at = child, at + same
            if same < len(child.edge):
                break
        if not at:
            return 0, None
        return at, min(node.owners, key=lambda s: (s not in self._idle, self.length(s), s))

    def touch(self, sequence: int) -> None:
        """An idle sequence has been of use."""
        if sequence in self._idle:
            self._idle.move_to_end(sequence)

    def covered(self, tenant: str, tokens: Sequence[int]) -> list[int]:
        """Idle sequences that hold nothing but a beginning of `tokens`."""
        line = tuple(tokens)
        return [
            sequence
            for sequence in self._idle
            if self._held[sequence][0] == tenant
            and line[: self.length(sequence)] == self._held[sequence][1]
        ]

    def idlers(self) -> list[int]:
        """Idle sequences, oldest use first."""
        return list(self._idle)

    def oldest(self, *, but: int | None = None) -> int | None:
        """The idle sequence to evict next."""
        return next((sequence for sequence in self._idle if sequence != but), None)
