"""Whether a model embeds, and how its tokens' vectors become one: from the file, or the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from backends.engine.gguf import Gguf

Pooling: TypeAlias = Literal["mean", "cls", "last"]

_STORED: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}
_RANK = 4
ENCODERS = frozenset(
    "bert modern-bert neo-bert eurobert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 "
    "gemma-embedding llama-embed t5encoder".split()
)
"""Architectures that llama.cpp gives no KV cells: every token sees every other, none is next."""
_DENSE = ("dense_2.weight", "dense_3.weight")


class NoEmbeddings(Exception):
    """The model cannot be used as configured; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a model is loaded for. `whole`: an input must be computed in one pass."""

    generates: bool = True
    pooling: Pooling | None = None
    whole: bool = False


def use_of(gguf: Gguf, configured: Pooling | Literal["off"] | None) -> Use:
    """A file that names a pooling is an embedding model and does nothing else.

    `configured` overrides: another pooling, one for a model that also generates, or none.
    Raises NoEmbeddings.
    """
    name, a = gguf.paths[0].name, gguf.architecture
    stored = gguf.number(f"{a}.pooling_type")
    encoder = a in ENCODERS
    whole = encoder or gguf.metadata.get(f"{a}.attention.causal") is False
    if stored == _RANK and configured is None:
        raise NoEmbeddings(f"{name} ranks texts (pooling `rank`); it makes no embeddings")
    wanted = configured or _STORED.get(stored)
    if wanted is None or wanted == "off":
        if whole:
            raise NoEmbeddings(
                f"{name} cannot generate, and says no pooling: set `embeddings: mean`, cls or last"
            )
        return Use()
    if any(tensor.name in _DENSE for tensor in gguf.tensors):
        raise NoEmbeddings(f"{name} has dense layers behind its pooling, which are not read here")
    embedder = encoder or whole or stored != 0
    return Use(generates=not embedder, pooling=wanted, whole=whole)


SHARED = 63
"""Rows of a batch of several texts: from 64 on, attention rounds by what else is there."""
CHUNK = 128
"""Rows of a batch of one long text. Each has a row of logits too, whose room grows with them."""
SEQUENCES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`context` bounds one text. `rows` is a batch of one text alone, `shared` one of several, and
    `sequences` how many those are at most."""

    context: int
    rows: int
    shared: int
    sequences: int


def room_for(context: int, *, whole: bool, batch: int, offload: bool) -> Room:
    """On a GPU a full batch is what pays, and results depend on company whatever is done."""
    rows = context if whole else min(batch if offload else CHUNK, context)
    shared = min(rows, batch if offload else SHARED)
    return Room(context=context, rows=rows, shared=shared, sequences=min(SEQUENCES, shared))
