"""What decides how much memory a model's state takes, from its metadata: heads, windows, states.

One place for the differences between architectures. Where one is not known here, what it has in
common with the others is used, and `known` is false: cells are then counted without windows, and
the compute buffer is a guess (so too for mixtures of experts, whose routing is not laid out).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from backends.engine.gguf import Array, Gguf, GgufError

WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "llama4": 4,
    "exaone4": 4, "olmo2": 4,
}  # fmt: skip
"""Of so many layers all but the last see a window only. Others with a window: not known."""

TWICE_NORMED = frozenset({"gemma2", "gemma3"})
KNOWN = frozenset(
    {
        *WINDOW_EVERY, "llama", "mistral3", "qwen2", "qwen3", "phi3", "granite", "smollm3",
        "internlm2", "stablelm", "starcoder2", "deepseek2", "mamba", "jamba",
    }
)  # fmt: skip
MAX_LAYERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """The state of a recurrent layer, in numbers of float32; the rest shapes its computation."""

    convolution: int
    state: int
    kernel: int = 0
    inner: int = 0
    rank: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """MLA: one compressed row in place of all heads' keys and values."""

    rank: int
    rope: int
    nope: int
    value: int
    query: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. `kv_heads` 0: it has no attention. `windowed`: it sees the last tokens only."""

    kv_heads: int
    windowed: bool = False
    recurrent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model as memory.py and compute.py see it."""

    architecture: str
    known: bool
    layers: tuple[Layer, ...]
    embedding: int
    heads: int
    key: int
    value: int
    feed_forward: int
    vocabulary: int
    context: int
    window: int = 0
    recurrence: Recurrence | None = None
    latent: Latent | None = None
    experts_used: int = 0
    expert_count: int = 0
    head_norms: bool = False
    twice_normed: bool = False
    rotary: bool = True


def shape(gguf: Gguf) -> Shape:
    """Raises GgufError if the file does not say what every model has."""
    a = gguf.architecture

    def number(key: str, default: int = 0) -> int:
        return gguf.number(f"{a}.{key}", default)

    count, embedding, heads = number("block_count"), number("embedding_length"), _heads(gguf)
    if not 0 < count <= MAX_LAYERS or embedding <= 0:
        raise GgufError(
            f"{gguf.paths[0].name} says nothing usable about its layers and their width."
        )
    head = embedding // heads if heads else 0
    window = number("attention.sliding_window")
    every = number("attention.sliding_window_pattern") or WINDOW_EVERY.get(a, 0)
    pattern = gguf.metadata.get(f"{a}.attention.sliding_window_pattern")
    recurrence = _recurrence(gguf, embedding)
    kv_heads = _per_layer(gguf, f"{a}.attention.head_count_kv", count, heads)
    layers = []
    for i in range(count):
        windowed = bool(window and every and i % every < every - 1)
        if isinstance(pattern, Array) and i < len(pattern.values):
            windowed = bool(pattern.values[i])
        recurrent, attends = False, True
        if recurrence is not None:
            recurrent, attends = _kinds(a, i, kv_heads)
        layers.append(
            Layer(kv_heads=kv_heads[i] if attends else 0, windowed=windowed, recurrent=recurrent)
        )
    names = {tensor.name for tensor in gguf.tensors}
    return Shape(
        architecture=a,
        known=a in KNOWN and not (window and not every) and not number("expert_count"),
        layers=tuple(layers),
        embedding=embedding,
        heads=heads,
        key=number("attention.key_length", head),
        value=number("attention.value_length", head),
        feed_forward=max(_per_layer(gguf, f"{a}.feed_forward_length", count, 0)),
        vocabulary=_vocabulary(gguf),
        context=number("context_length"),
        window=window,
        recurrence=recurrence,
        latent=_latent(gguf, head),
        expert_count=number("expert_count"),
        experts_used=number("expert_used_count"),
        head_norms="blk.0.attn_q_norm.weight" in names,
        twice_normed=a in TWICE_NORMED,
        rotary=a != "jamba",
    )


_ATTENTION_FREE = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


def _kinds(architecture: str, layer: int, kv_heads: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether a layer of a model with states is recurrent, and whether it has attention.

    Hybrids give each layer its KV heads, 0 for the recurrent ones. One that gives none for all is
    taken to have both in every layer: too much rather than too little.
    """
    if architecture in _ATTENTION_FREE:
        return True, False
    if architecture == "qwen3next":
        return (layer + 1) % 4 != 0, (layer + 1) % 4 == 0
    mixed = 0 in kv_heads
    return not mixed or kv_heads[layer] == 0, kv_heads[layer] > 0


def _heads(gguf: Gguf) -> int:
    a = gguf.architecture
    return max(_per_layer(gguf, f"{a}.attention.head_count", 1, 0))


def _per_layer(gguf: Gguf, key: str, count: int, default: int) -> tuple[int, ...]:
    value = gguf.metadata.get(key)
    if isinstance(value, Array) and value.values:
        numbers = [int(n) if math.isfinite(n) else 0 for n in value.values]
        return tuple((numbers + [numbers[-1]] * count)[: max(count, len(numbers))])
    return (gguf.number(key, default),) * count


def _vocabulary(gguf: Gguf) -> int:
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Array):
        return tokens.length
    return gguf.number(f"{gguf.architecture}.vocab_size")


def _latent(gguf: Gguf, head: int) -> Latent | None:
    """Files from before llama.cpp knew MLA keep whole keys and values, and lack the `_mla` keys."""
    a = gguf.architecture
    rank, whole = (
        gguf.number(f"{a}.attention.kv_lora_rank"),
        gguf.number(f"{a}.attention.key_length_mla"),
    )
    if not rank or not whole:
        return None
    rope = gguf.number(f"{a}.rope.dimension_count")
    value = gguf.number(f"{a}.attention.value_length_mla", head)
    query = gguf.number(f"{a}.attention.q_lora_rank")
    return Latent(rank=rank, rope=rope, nope=whole - rope, value=value, query=query)


def _recurrence(gguf: Gguf, embedding: int) -> Recurrence | None:
    a = gguf.architecture
    wkv = gguf.number(f"{a}.wkv.head_size")
    if wkv:
        shifts = gguf.number(f"{a}.token_shift_count", 2)
        return Recurrence(convolution=shifts * embedding, state=embedding * wkv)
    short = gguf.number(f"{a}.shortconv.l_cache")
    if short:
        return Recurrence(convolution=embedding * (short - 1), state=0)
    kernel, inner = gguf.number(f"{a}.ssm.conv_kernel"), gguf.number(f"{a}.ssm.inner_size")
    state, groups = gguf.number(f"{a}.ssm.state_size"), gguf.number(f"{a}.ssm.group_count")
    if not inner:
        return None
    return Recurrence(
        convolution=max(0, kernel - 1) * (inner + 2 * groups * state),
        state=state * inner,
        kernel=kernel,
        inner=inner,
        rank=gguf.number(f"{a}.ssm.time_step_rank"),
        width=state,
    )
