"""GGUF headers, read without llama.cpp: metadata and tensor infos, never tensor data.

The file came from somewhere: every count and length is held against a limit and against the file's
own size before it is believed, so a damaged file costs an error and not the machine's memory.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeAlias

HEADER_LIMIT = 256 << 20
"""Bytes of metadata and tensor infos; the largest vocabularies with merges take some 20 MB."""
KEYS, TENSORS, ARRAY, KEY_LENGTH = 1 << 16, 1 << 18, 1 << 25, 1 << 16
KEPT = 1 << 12
"""Numbers of an array that are kept; longer ones (token scores) only have a length here."""
TEXT_KEPT = 1 << 20
"""Bytes of one string that are kept."""

TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml's number of a type → (name, weights in a block, bytes of a block)"""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""`general.file_type` → the name that people know a quantization by"""

Scalar: TypeAlias = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array's length; its numbers too while it is short, else and for texts ()."""

    length: int
    values: tuple[int | float | bool, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file. `shape` has the row length first, as ggml has it."""

    name: str
    shape: tuple[int, ...]
    type: str
    size: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


class GgufError(Exception):
    """The file is no GGUF that can be used; the message is a sentence that says why."""


@dataclass(frozen=True)
class Gguf:
    """What the headers of a model say: all the parts of a split one together."""

    paths: tuple[Path, ...]
    metadata: Mapping[str, Scalar | Array]
    tensors: tuple[TensorInfo, ...]
    size: int
    fim_texts: bool = False

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int = 0) -> int:
        value = self.metadata.get(key)
        return int(value) if isinstance(value, int | float) and math.isfinite(value) else default

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def quantization(self) -> str:
        """The name of the file's type; of its commonest tensor type where the file has none."""
        number = self.number("general.file_type", -1)
        if number in FILE_TYPES:
            return FILE_TYPES[number]
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
        return max(sizes, key=lambda name: sizes[name], default="unknown")

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits(self) -> float:
        """Bits a weight, over all tensors: what `min_bits` is held against."""
        stored = sum(tensor.size for tensor in self.tensors)
        return 8 * stored / self.parameters if self.parameters else 0.0

    @property
    def template(self) -> bool:
        return bool(self.text("tokenizer.chat_template"))

    @property
    def fim(self) -> bool:
        """Whether the vocabulary has fill-in-the-middle tokens, named or known by their text."""
        prefix = "tokenizer.ggml."
        keys = [f"{prefix}{name}_token_id" for name in ("fim_pre", "fim_suf", "fim_mid")]
        return self.fim_texts or all(key in self.metadata for key in keys)


_SPLIT = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")
_FIM_TEXTS = (
    (b"<|fim_prefix|>", b"<|fim_suffix|>", b"<|fim_middle|>"),
    (b"<fim_prefix>", b"<fim_suffix>", b"<fim_middle>"),
    (b"<fim-prefix>", b"<fim-suffix>", b"<fim-middle>"),
    ("<｜fim▁begin｜>".encode(), "<｜fim▁hole｜>".encode(), "<｜fim▁end｜>".encode()),
    (b"<PRE>", b"<SUF>", b"<MID>"),
)  # fmt: skip
_FIM_ALL = frozenset(text for texts in _FIM_TEXTS for text in texts)


def read(path: Path) -> Gguf:
    """The headers of a model; of all its parts, if `path` is one part of a split file.

    Raises GgufError.
    """
    paths = parts(path)
    heads = [_read_one(each) for each in paths]
    first = heads[0]
    if len(heads) == 1:
        return first
    for number, head in enumerate(heads):
        if head.number("split.count") != len(heads) or head.number("split.no") != number:
            raise GgufError(
                f"{head.paths[0].name} does not say that it is part {number + 1} of {len(heads)};"
                " it belongs to another model or was renamed."
            )
    tensors = tuple(tensor for head in heads for tensor in head.tensors)
    expected = first.number("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise GgufError(
            f"{first.paths[0].name} announces {expected} tensors, its parts hold {len(tensors)}."
        )
    size = sum(head.size for head in heads)
    return Gguf(paths, first.metadata, tensors, size, first.fim_texts)


def parts(path: Path) -> tuple[Path, ...]:
    """All the files of a model, in order. Raises GgufError, naming a part that is missing."""
    match = _SPLIT.match(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= count <= 1000:
        raise GgufError(f"{path.name} claims {count} parts.")
    found = tuple(
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    )
    missing = [each.name for each in found if not each.is_file()]
    if missing:
        raise GgufError(f"{path.name} is part of a split model, and {missing[0]} is missing.")
    return found


def _read_one(path: Path) -> Gguf:
    try:
        with path.open("rb") as file:
            return _Reader(path, file, path.stat().st_size).gguf()
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror}.") from None


class _Reader:
    """One file from its start to the end of its tensor infos."""

    SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
    STRING, ARRAY_TYPE, FLOAT64 = 8, 9, 12

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._at = 0
        self._fim = [[False] * 3 for _ in _FIM_TEXTS]

    def gguf(self) -> Gguf:
        if self._size < 24 or self._take(4) != b"GGUF":
            raise self._bad("is not a GGUF file")
        version = self._one("I")
        if version not in (2, 3):
            raise self._bad(f"has GGUF version {version}; 2 and 3 can be read")
        tensors, keys = self._count(TENSORS, "tensors"), self._count(KEYS, "metadata keys")
        metadata: dict[str, Scalar | Array] = {}
        for _ in range(keys):
            key = self._string(KEY_LENGTH)
            kind = self._one("I")
            metadata[key] = (
                self._array(tokens=key == "tokenizer.ggml.tokens")
                if kind == self.ARRAY_TYPE
                else self._scalar(kind)
            )
        infos, ends = [], [0]
        for _ in range(tensors):
            info, end = self._tensor()
            infos.append(info)
            ends.append(end)
        if "general.architecture" not in metadata and not metadata.get("split.no"):
            raise self._bad("does not say its architecture")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise self._bad(f"has the alignment {alignment}")
        start = -(-self._at // alignment) * alignment
        if infos and start + max(ends) > self._size:
            raise self._bad(
                f"is cut off: its tensors end at byte {start + max(ends)}, it has {self._size}"
            )
        fim = any(all(texts) for texts in self._fim)
        return Gguf((self._path,), metadata, tuple(infos), self._size, fim)

    def _tensor(self) -> tuple[TensorInfo, int]:
        name = self._string(KEY_LENGTH)
        dimensions = self._one("I")
        if not 1 <= dimensions <= 4:
            raise self._bad(f"has a tensor of {dimensions} dimensions")
        shape = tuple(int(n) for n in self._many(f"{dimensions}Q"))
        kind, offset = self._one("I"), self._one("Q")
        if kind not in TYPES:  # newer than this table; whether it can be loaded, llama.cpp knows
            return TensorInfo(name, shape, f"type {kind}", 0), offset
        label, block, size = TYPES[kind]
        if not all(shape) or shape[0] % block or math.prod(shape) > 1 << 45:
            raise self._bad(f"has a tensor whose shape does not fit its type {label}")
        bytes_ = math.prod(shape) // block * size
        return TensorInfo(name, shape, label, bytes_), offset + bytes_

    def _array(self, *, tokens: bool) -> Array:
        kind = self._one("I")
        length = self._count(ARRAY, "array elements")
        if kind == self.STRING:
            for _ in range(length):
                text = self._take(self._one("Q"))
                if tokens and text in _FIM_ALL:
                    self._note_fim(text)
            return Array(length)
        letter = "d" if kind == self.FLOAT64 else self.SIZES.get(kind)
        if letter is None:
            raise self._bad(f"has an array of the unknown type {kind}")
        raw = self._take(length * struct.calcsize(letter))
        return Array(length, struct.unpack(f"<{length}{letter}", raw) if length <= KEPT else ())

    def _note_fim(self, text: bytes) -> None:
        for known, seen in zip(_FIM_TEXTS, self._fim, strict=True):
            if text in known:
                seen[known.index(text)] = True

    def _scalar(self, kind: int) -> Scalar:
        if kind == self.STRING:
            return self._string(HEADER_LIMIT)
        letter = "d" if kind == self.FLOAT64 else self.SIZES.get(kind)
        if letter is None:
            raise self._bad(f"has a value of the unknown type {kind}")
        value: Scalar = self._many(letter)[0]
        return value

    def _count(self, limit: int, what: str) -> int:
        count = self._one("Q")
        if count > limit or count > self._size:
            raise self._bad(f"claims {count} {what}")
        return count

    def _string(self, limit: int) -> str:
        length = self._one("Q")
        if length > limit:
            raise self._bad(f"claims a text of {length} bytes")
        return self._take(length)[:TEXT_KEPT].decode("utf-8", "replace")

    def _one(self, letter: str) -> int:
        return int(self._many(letter)[0])

    def _many(self, letters: str) -> tuple[int, ...]:
        return struct.unpack("<" + letters, self._take(struct.calcsize("<" + letters)))

    def _take(self, length: int) -> bytes:
        self._at += length
        if self._at > min(self._size, HEADER_LIMIT):
            raise self._bad("ends, or says so much of itself, that its header cannot be whole")
        return self._file.read(length)

    def _bad(self, why: str) -> GgufError:
        return GgufError(f"{self._path.name} {why}.")
