"""The GGUF reader: what it reads, what it refuses, and that it never believes a number."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from backends.engine.gguf import TYPES, GgufError, parts, read
from tests.fakes.gguf import write_vocabulary
from tests.fakes.gguf_models import write, write_model

BUNDLED = Path(__file__).resolve().parents[3] / "backends" / "engine" / "bundled"
TARGET = BUNDLED / "tandem-demo-target-q8_0.gguf"
MANIFEST = json.loads((BUNDLED / "manifest.json").read_text())
MODEL = next(m for m in MANIFEST["models"] if m["file"] == TARGET.name)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return write_model(tmp_path / "m.gguf", "llama").read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(GgufError) as caught:
        read(path)
    return str(caught.value)


def test_bundled_target() -> None:
    """The target's headers: its architecture, size, type, template and tokens."""
    gguf = read(TARGET)
    assert (gguf.architecture, gguf.quantization) == ("llama", "Q8_0")
    assert gguf.size == TARGET.stat().st_size
    assert gguf.parameters == MODEL["parameters"]
    assert 8.5 < gguf.bits < 8.52
    assert gguf.template and gguf.fim
    assert gguf.number("llama.context_length") == MODEL["context_length"]


def test_fim_is_known_by_key_or_by_text(tmp_path: Path) -> None:
    """As llama.cpp finds it: ids in the metadata, or tokens that look like it."""
    assert read(write_vocabulary(tmp_path / "with.gguf")).fim
    assert not read(write_vocabulary(tmp_path / "without.gguf", fim=False)).fim
    assert read(write_model(tmp_path / "text.gguf", "llama")).fim


@pytest.mark.parametrize("at", [0, 3, 4, 20, 23, 24, 100, 5_000, 100_000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, whole: bytes, at: int) -> None:
    """Wherever a file ends too early, one byte included, a sentence with its name says so."""
    said = refused(tmp_path / "cut.gguf", whole[:at])
    assert said.startswith("cut.gguf ") and said.endswith(".")


def test_flipped_bits_never_cost_more_than_an_error(tmp_path: Path, whole: bytes) -> None:
    """Any byte of the header may be anything: the reader answers or raises GgufError."""
    dice = random.Random(3)
    path = tmp_path / "flipped.gguf"
    for _ in range(300):
        damaged = bytearray(whole[:110_000])
        for _ in range(dice.choice((1, 1, 8))):
            damaged[dice.randrange(4, 600)] = dice.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(GgufError):  # it is cut off in any case
            read(path)


@pytest.mark.parametrize(
    ("field", "value"), [("tensors", 1 << 60), ("keys", 1 << 60), ("key", 1 << 40)]
)
def test_absurd_counts_are_not_believed(tmp_path: Path, field: str, value: int) -> None:
    """A count of 2^60 costs neither memory nor time."""
    counts = {"tensors": 0, "keys": 1, "key": 4} | {field: value}
    head = struct.pack("<4sIQQQ", b"GGUF", 3, counts["tensors"], counts["keys"], counts["key"])
    assert "claims" in refused(tmp_path / "absurd.gguf", head + b"abcd" + bytes(64))


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file that is no GGUF, one of an old version, one without a name for itself."""
    assert "not a GGUF" in refused(tmp_path / "a.gguf", b"PK\x03\x04" + bytes(100))
    old = struct.pack("<4sIII", b"GGUF", 1, 0, 0) + bytes(100)
    assert "version 1" in refused(tmp_path / "b.gguf", old)
    bare = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0) + bytes(100)
    assert "architecture" in refused(tmp_path / "c.gguf", bare)
    with pytest.raises(GgufError, match="cannot be read"):
        read(tmp_path / "none.gguf")


def split(folder: Path, counts: tuple[int, ...] = (2, 1)) -> list[Path]:
    """A model in parts, each with some of its tensors."""
    paths = []
    for number, tensors in enumerate(counts):
        path = folder / f"m-{number + 1:05d}-of-{len(counts):05d}.gguf"
        meta = {"split.no": number, "split.count": len(counts), "split.tensors.count": sum(counts)}
        if number == 0:
            meta |= {"llama.block_count": 1, "llama.embedding_length": 32}
            named = {"general.architecture": "llama", **meta}
        else:
            named = {**meta}
        write(path, named, {f"{number}.{i}.weight": (32, 4) for i in range(tensors)})
        paths.append(path)
    return paths


def test_a_split_model_is_read_as_one(tmp_path: Path) -> None:
    """From any of its parts: all tensors, the sizes summed, the first part's metadata."""
    paths = split(tmp_path)
    for path in paths:
        gguf = read(path)
        assert gguf.paths == tuple(paths)
        assert (len(gguf.tensors), gguf.architecture) == (3, "llama")
        assert gguf.size == sum(each.stat().st_size for each in paths)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """Which part is missing, not only that one is."""
    paths = split(tmp_path, (1, 1, 1))
    paths[1].unlink()
    with pytest.raises(GgufError, match=r"m-00002-of-00003\.gguf is missing"):
        parts(paths[0])


def test_a_part_of_another_model_is_refused(tmp_path: Path) -> None:
    """Parts that do not belong together are not added up."""
    paths = split(tmp_path)
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(GgufError, match="does not say that it is part 2"):
        read(paths[0])


def test_a_type_that_is_newer_than_we_are_is_no_damage(tmp_path: Path, whole: bytes) -> None:
    """Whether llama.cpp can load it is llama.cpp's to say; its bits are then not counted."""
    assert 77 not in TYPES
    at = whole.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    (tmp_path / "new.gguf").write_bytes(whole[:at] + struct.pack("<I", 77) + whole[at + 4 :])
    types = {tensor.type for tensor in read(tmp_path / "new.gguf").tensors}
    assert "type 77" in types
