"""The operations of one step, by kind of layer: what graph.py lays out to size a compute buffer.

In llama.cpp's own order, as GGML_SCHED_DEBUG=2 prints it (0.3.36 of llama-cpp-python). An operation
over a view of a tensor gets a place of its own, others of the same size may take their operand's.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.engine.graph import Graph, Tensor
from backends.engine.shape import Layer, Recurrence, Shape

F32, F16, I64 = 4, 2, 8


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tensors that every layer reads."""

    positions: Tensor
    rows: Tensor
    mask: Tensor
    window_mask: Tensor


def compute_bytes(
    shape: Shape,
    *,
    cells: int,
    window_cells: int,
    batch: int,
    outputs: int,
    sequences: int,
    flash_attention: bool,
) -> int:
    """Bytes of llama.cpp's compute buffer on a CPU, for batches of up to `batch` rows."""
    return _Step(
        shape, cells, window_cells, batch, min(outputs, batch), sequences, flash_attention
    ).bytes()


class _Step:
    def __init__(
        self,
        shape: Shape,
        cells: int,
        window_cells: int,
        batch: int,
        outputs: int,
        sequences: int,
        flash: bool,
    ) -> None:
        self._shape, self._cells, self._window_cells = shape, cells, window_cells
        self._rows, self._outputs, self._sequences, self._flash = batch, outputs, sequences, flash
        self._graph = Graph()

    def bytes(self) -> int:
        graph, shape, rows = self._graph, self._shape, self._rows
        tokens = graph.leaf(rows * F32)
        graph.leaf(shape.embedding * rows * F32)  # for embeddings as input; reserved, never used
        inputs = self._inputs()
        wanted = graph.leaf(self._outputs * F32)
        x = graph.op(shape.embedding * rows * F32, tokens)
        if shape.twice_normed:
            x = graph.inplace(x)
        state = self._state() if shape.layers[0].recurrent else None
        for i, layer in enumerate(shape.layers):
            last = i == len(shape.layers) - 1
            following = None if last else shape.layers[i + 1]
            normed = self._norm(x)
            if layer.recurrent and shape.recurrence is not None:
                state = state or self._state()
                cells = following is not None and following.recurrent
                mixed, state = self._recurrent(shape.recurrence, normed, state, cells)
            elif shape.latent is not None:
                mixed = self._latent(normed, inputs)
            else:
                mixed = self._attention(layer, normed, inputs)
                if following is not None and following.recurrent:
                    state = self._state()
            if last:
                rows = self._outputs
                mixed = graph.op(shape.embedding * rows * F32, mixed, wanted)
                x = graph.op(shape.embedding * rows * F32, x, wanted)
            if shape.twice_normed:
                mixed = graph.inplace(graph.inplace(mixed))
            x = graph.inplace(x, mixed) if layer.recurrent else graph.inplace(mixed, x)
            if shape.feed_forward:
                x = self._feed_forward(x, rows)
        graph.op(shape.vocabulary * self._outputs * F32, graph.inplace(graph.inplace(x)))
        return graph.peak()

    def _inputs(self) -> Inputs:
        graph, rows = self._graph, self._rows
        mask = rows * (F16 if self._flash else F32)
        if not any(layer.kv_heads for layer in self._shape.layers):
            nothing = graph.leaf(0)
            return Inputs(nothing, nothing, nothing, nothing)
        whole = graph.leaf(self._cells * mask)
        windowed = whole
        if any(layer.windowed for layer in self._shape.layers):
            windowed = graph.leaf(self._window_cells * mask)
            graph.leaf(2 * rows * I64)
        return Inputs(graph.leaf(rows * F32), graph.leaf(2 * rows * I64), whole, windowed)

    def _norm(self, x: Tensor) -> Tensor:
        return self._graph.inplace(self._graph.op(x.size, x))

    def _attention(self, layer: Layer, x: Tensor, inputs: Inputs) -> Tensor:
        graph, shape, row = self._graph, self._shape, self._rows * F32
        q = self._projected(shape.heads * shape.key * row, x, inputs)
        v = graph.op(layer.kv_heads * shape.value * row, x)
        k = self._projected(layer.kv_heads * shape.key * row, x, inputs)
        graph.op(0, k, inputs.rows)
        graph.op(0, v, inputs.rows)
        mask = inputs.window_mask if layer.windowed else inputs.mask
        cells = self._window_cells if layer.windowed else self._cells
        out = shape.heads * shape.value * row
        if self._flash:
            attended = graph.op(out, q, mask)
        else:
            scores = graph.inplace(graph.op(cells * shape.heads * row, q), mask)
            attended = graph.op(out, graph.op(out, scores))
        return graph.op(shape.embedding * row, attended)

    def _projected(self, size: int, x: Tensor, inputs: Inputs) -> Tensor:
        """A query or key: projected, normed by head where the model does, rotated."""
        graph, shape = self._graph, self._shape
        out = graph.op(size, x)
        if shape.head_norms:
            out = graph.inplace(graph.op(size, out))
            return graph.inplace(out, inputs.positions)
        return graph.op(size, out, inputs.positions) if shape.rotary else out

    def _latent(self, x: Tensor, inputs: Inputs) -> Tensor:
        graph, shape, row = self._graph, self._shape, self._rows * F32
        latent = shape.latent
        assert latent is not None
        source = x
        if latent.query:
            source = graph.inplace(graph.inplace(graph.op(latent.query * row, x)))
        q = graph.op(shape.heads * (latent.nope + latent.rope) * row, source)
        absorbed = graph.op(shape.heads * latent.rank * row, q)
        rotated = graph.op(shape.heads * latent.rope * row, q, inputs.positions)
        q = graph.op(shape.heads * (latent.rank + latent.rope) * row, absorbed, rotated)
        kv = graph.op((latent.rank + latent.rope) * row, x)
        compressed = graph.inplace(graph.op(latent.rank * row, kv))
        key = graph.op(latent.rope * row, kv, inputs.positions)
        k = graph.op((latent.rank + latent.rope) * row, compressed, key)
        graph.op(0, k, inputs.rows)
        if self._flash:
            attended = graph.op(shape.heads * latent.rank * row, q, inputs.mask)
        else:
            scores = graph.inplace(graph.op(self._cells * shape.heads * row, q), inputs.mask)
            attended = graph.op(shape.heads * latent.rank * row, scores)
        values = graph.op(shape.heads * latent.value * row, attended)
        values = graph.op(shape.heads * latent.value * row, values)
        return graph.op(shape.embedding * row, values)

    def _state(self) -> Tensor:
        """A recurrent layer's convolution state, gathered for the sequences of the batch."""
        assert self._shape.recurrence is not None
        return self._graph.op(self._shape.recurrence.convolution * self._sequences * F32)

    def _recurrent(
        self, own: Recurrence, x: Tensor, state: Tensor, more: bool
    ) -> tuple[Tensor, Tensor | None]:
        """A Mamba layer; llama.cpp gathers the next one's state before it ends this one."""
        graph, row = self._graph, self._rows * F32
        both = graph.op(2 * own.inner * row, x)
        window = graph.op(own.convolution * self._sequences * F32 + own.inner * row, state, both)
        inner = graph.inplace(graph.inplace(graph.op(own.inner * row, window)))
        selected = graph.op((own.rank + 2 * own.width) * row, inner)
        step = graph.op(own.rank * row, selected)
        step = graph.inplace(graph.op(own.inner * row, step))
        scanned = graph.op(
            own.inner * row + own.state * self._sequences * F32, inner, step, selected
        )
        following = self._state() if more else None
        gate = graph.op(own.inner * row, both)
        skipped = graph.inplace(inner, scanned)
        gated = graph.op(own.inner * row, gate, skipped)
        return graph.op(self._shape.embedding * row, gated), following

    def _feed_forward(self, x: Tensor, rows: int) -> Tensor:
        graph, shape, row = self._graph, self._shape, rows * F32
        normed = self._norm(x)
        width = shape.feed_forward * max(1, shape.experts_used)
        gate = graph.op(width * row, normed)
        up = graph.op(width * row, normed)
        out = graph.op(
            shape.embedding * max(1, shape.experts_used) * row, graph.op(width * row, gate, up)
        )
        if shape.experts_used > 1:
            out = graph.op(shape.embedding * row, out)
        if shape.twice_normed:
            out = graph.inplace(graph.inplace(out))
        return graph.inplace(x, out) if shape.recurrence else graph.inplace(out, x)
