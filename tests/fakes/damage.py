"""One tiny model, and its file damaged in every way that a disk, a network or a person manages.

Deterministic: the same seed, the same files. Each is (name, bytes).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.gguf_models import Meta, Tensors, attention_model, text, write

ABSURD = (0, 2**31 - 1, 2**32 - 1, float("nan"), "text")
NUMBERS = (
    "llama.block_count",
    "llama.embedding_length",
    "llama.context_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.rope.dimension_count",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
)


def tiny() -> tuple[Meta, Tensors]:
    """A llama that llama.cpp loads in a blink."""
    return attention_model(
        "llama", layers=2, width=64, heads=2, kv_heads=1, head=32, ff=96, vocab=300, context=256
    )


def damaged(folder: Path, *, seed: int = 20) -> Iterator[tuple[str, bytes]]:
    """Truncated files, flipped bits of the header, the tensor infos and the weights, absurd
    numbers, odd shapes, and what is no GGUF at all; over a hundred.
    """
    chance = random.Random(seed)
    path = folder / "whole.gguf"
    write(path, *tiny())
    whole = path.read_bytes()
    infos = whole.index(text("token_embd.weight"))
    weights = whole.index(text("blk.1.ffn_down.weight")) + 128
    yield "whole", whole
    for end in (0, 3, 4, 24, 100, infos, weights, len(whole) // 2, len(whole) - 1):
        yield f"cut at {end}", whole[:end]
    for start, stop, count in ((4, infos, 20), (infos, weights, 16), (weights, len(whole), 8)):
        for _ in range(count):
            at, bit = chance.randrange(start, stop), chance.randrange(8)
            yield f"byte {at} bit {bit}", _flipped(whole, at, bit)
    for i in range(4):
        worse = bytearray(whole)
        for _ in range(200):
            worse[chance.randrange(weights, len(whole))] ^= 1 << chance.randrange(8)
        yield f"weights {i}", bytes(worse)
    yield "all ones", whole[:weights] + b"\xff" * (len(whole) - weights)
    meta, tensors = tiny()
    for key in NUMBERS:
        for value in ABSURD:
            write(path, {**meta, key: value}, tensors)  # type: ignore[dict-item]
            yield f"{key} = {str(value)[:12]}", path.read_bytes()
    odd: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (300, 64),
        "blk.0.attn_q.weight": (64, 32),
        "blk.1.ffn_down.weight": (1, 1),
        "output_norm.weight": (7,),
    }
    for name, shape in odd.items():
        write(path, meta, {**tensors, name: shape})
        yield f"{name} {shape}", path.read_bytes()
    yield "nothing", b""
    yield "not a GGUF", b"PK\x03\x04" + bytes(4096)


def _flipped(whole: bytes, at: int, bit: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
