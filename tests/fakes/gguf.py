"""Small GGUF files made for a test: a byte-level vocabulary and its metadata, no weights."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
)
NORMAL, CONTROL = 1, 3

Value = str | int | bool | list[str] | list[int]


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def write_vocabulary(
    path: Path,
    *,
    template: str = "",
    fim: bool = True,
    context: int = 512,
    markers: Sequence[str] = (),
) -> Path:
    """A file that loads with `vocab_only`: ids 0 to 6 special, one for each byte, then `markers`,
    control tokens too.
    """
    tokens = [*SPECIALS, *byte_characters(), *markers]
    meta: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.context_length": context,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * len(SPECIALS)
        + [NORMAL] * 256
        + [CONTROL] * len(markers),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    if fim:
        meta["tokenizer.ggml.fim_pre_token_id"] = 3
        meta["tokenizer.ggml.fim_suf_token_id"] = 4
        meta["tokenizer.ggml.fim_mid_token_id"] = 5
    else:
        # llama.cpp finds FIM tokens by their text too, so they must not look like any.
        meta["tokenizer.ggml.tokens"] = [
            t.replace("fim", "other") if t in SPECIALS else t for t in tokens
        ]
    if template:
        meta["tokenizer.chat_template"] = template
    body = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(meta))
    body += b"".join(_text(key) + _value(value) for key, value in meta.items())
    path.write_bytes(body)
    return path


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(str(v)) for v in value)
        case _:
            head = struct.pack("<IIQ", 9, 5, len(value))
            return head + struct.pack(f"<{len(value)}i", *(int(v) for v in value))
