"""How large llama.cpp's compute buffer gets: its graph's tensors, laid out as its allocator does.

The buffer holds what a step computes in between: activations, attention masks, logits. Its size
follows from which tensors live at the same time and from the holes between them, so no short
formula is near enough (three feed-forward rows or five?). Here the tensors of one step are listed
in the order in which they are computed, and placed by the rules of ggml's allocator: inputs first,
the smallest hole that fits, an operation in its operand's place where ggml allows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 32


@dataclass(slots=True, eq=False)
class Tensor:
    """`size` bytes; `uses` counts the operations still to come that read it."""

    size: int
    inputs: tuple[Tensor, ...] = ()
    inplace: bool = False
    uses: int = 0
    offset: int = -1


@dataclass(slots=True)
class Graph:
    """The operations of one step in the order of their execution."""

    leaves: list[Tensor] = field(default_factory=list)
    nodes: list[Tensor] = field(default_factory=list)

    def leaf(self, size: int) -> Tensor:
        """An input of the graph: there from the start, freed after its last use."""
        self.leaves.append(Tensor(size))
        return self.leaves[-1]

    def op(self, size: int, *inputs: Tensor) -> Tensor:
        """An operation with a place of its own; `size` 0 writes elsewhere, as into the KV cells."""
        return self._add(Tensor(size, inputs))

    def inplace(self, *inputs: Tensor) -> Tensor:
        """An operation that takes the place of its first operand of which it is the last use."""
        return self._add(Tensor(inputs[0].size, inputs, inplace=True))

    def _add(self, tensor: Tensor) -> Tensor:
        for each in tensor.inputs:
            each.uses += 1
        self.nodes.append(tensor)
        return tensor

    def peak(self) -> int:
        """Bytes that the buffer needs. Uses the graph up."""
        space = Space()
        for leaf in self.leaves:
            leaf.offset = space.take(leaf.size)
        for node in self.nodes:
            _place(node, space)
            for each in node.inputs:
                each.uses -= 1
                if each.uses == 0 and each.offset >= 0:
                    space.give(each.offset, each.size)
                    each.offset = -1
        return space.peak


def _place(node: Tensor, space: Space) -> None:
    if node.inplace:
        for each in node.inputs:
            if each.uses == 1 and each.offset >= 0 and each.size == node.size:
                node.offset, each.offset = each.offset, -1
                return
    if node.size:
        node.offset = space.take(node.size)


class Space:
    """An endless buffer with holes: `holes` are (offset, size) in order, the last without end."""

    def __init__(self) -> None:
        self.holes: list[tuple[int, int]] = [(0, 1 << 62)]
        self.peak = 0

    def take(self, size: int) -> int:
        """Place `size` bytes in the smallest hole that holds them, the endless one only if none."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        fitting = [i for i, (_, room) in enumerate(self.holes[:-1]) if room >= size]
        # of equal ones the last, as ggml has it
        best = min(reversed(fitting), key=lambda i: self.holes[i][1], default=len(self.holes) - 1)
        offset, room = self.holes[best]
        if room == size:
            del self.holes[best]
        else:
            self.holes[best] = (offset + size, room - size)
        self.peak = max(self.peak, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Free it and join it with the holes beside it."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        joined: list[tuple[int, int]] = []
        for hole in sorted([*self.holes, (offset, size)]):
            if joined and sum(joined[-1]) == hole[0]:
                joined[-1] = (joined[-1][0], joined[-1][1] + hole[1])
            else:
                joined.append(hole)
        self.holes = joined
