"""Memory estimates: the formulas by hand, and against the buffers that llama.cpp makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.engine.gguf import TYPES, Gguf, read
from backends.engine.graph import Graph, Space
from backends.engine.memory import (
    KV_BYTES,
    Context,
    bytes_per_token,
    kv_bytes,
    memory,
    quantized_kv_refusal,
    recurrent_bytes,
)
from backends.engine.shape import shape
from tests.fakes.buffers import CONTEXTS, MIB, logged
from tests.fakes.gguf_models import MODELS, write_model

TOLERANCE = 0.05

BLOCKS = """
import json
import llama_cpp.llama_cpp as C, llama_cpp, ctypes, glob, os, sys
base = [l for l in glob.glob(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "*"))
        if "ggml-base" in l]
ggml = ctypes.CDLL(base[0])
ggml.ggml_type_size.restype = ctypes.c_size_t
ggml.ggml_blck_size.restype = ctypes.c_int64
numbers = json.loads(sys.argv[1])
print(json.dumps({n: [ggml.ggml_blck_size(n), ggml.ggml_type_size(n)] for n in numbers}))
"""


@pytest.fixture(scope="session", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    return read(write_model(path, request.param))


@pytest.mark.parametrize("name", CONTEXTS)
def test_estimate_equals_what_llama_cpp_makes(llama_cpp: None, model: Gguf, name: str) -> None:
    """KV cells, states and compute buffer are within 5 % of llama.cpp's log, on every architecture.

    tests/bench/memory.py prints them, and the process's RSS beside the estimated total.
    """
    context = CONTEXTS[name]
    ours, theirs = memory(model, context), logged(model.paths[0], context)
    rows = {"kv": ours.kv / MIB, "recurrent": ours.recurrent / MIB, "compute": ours.compute / MIB}
    for key, value in rows.items():
        # the log has two decimals
        assert value == pytest.approx(theirs[key], rel=TOLERANCE, abs=0.006), key
    assert theirs["compute"] > 0


def test_sizes_of_types_are_ggmls(llama_cpp: None) -> None:
    """Our table of block sizes is the library's."""
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKS, json.dumps(sorted(TYPES))],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {int(number): tuple(sizes) for number, sizes in json.loads(ran.stdout).items()}
    assert theirs == {number: (block, size) for number, (_, block, size) in TYPES.items()}


def test_bytes_a_token_by_hand(tmp_path: Path) -> None:
    """Two KV heads of 32 in four layers: 4 x 2 x (32 + 32) numbers, each of its type's size."""
    found = shape(read(write_model(tmp_path / "m.gguf", "llama")))
    numbers = 4 * 2 * (32 + 32)
    for kind, (size, block) in KV_BYTES.items():
        assert bytes_per_token(found, kind, kind) == numbers * size // block
    assert bytes_per_token(found) == 1024
    assert kv_bytes(found, Context(cells=1000)) == 1024 * 1024  # rounded up to 256 cells


def test_kv_heads_may_differ_by_layer(tmp_path: Path) -> None:
    """An array of KV heads is summed layer by layer; 0 is a layer without attention."""
    path = write_model(
        tmp_path / "m.gguf", "llama", meta={"llama.attention.head_count_kv": [8, 2, 0, 1]}
    )
    assert bytes_per_token(shape(read(path))) == (8 + 2 + 0 + 1) * 64 * 2


def test_windows_bound_cells(tmp_path: Path) -> None:
    """Half of gemma2's layers keep their window's cells, unless all are kept for rewinding."""
    found = shape(read(write_model(tmp_path / "m.gguf", "gemma2")))
    full, small = (Context(cells=8192, batch=256, window_full=each) for each in (True, False))
    assert kv_bytes(found, full) == 4 * 256 * 8192
    assert kv_bytes(found, small) == 2 * 256 * (8192 + 768)


def test_latent_attention_keeps_one_row(tmp_path: Path) -> None:
    """DeepSeek's cells are the compressed row and the rotated part, for all heads and no values."""
    found = shape(read(write_model(tmp_path / "m.gguf", "deepseek2")))
    assert bytes_per_token(found) == 4 * (64 + 32) * 2


def test_states_do_not_grow(tmp_path: Path) -> None:
    """Mamba has no KV cells: 4 layers of (3 x 512 + 16 x 512) floats a sequence, at any length."""
    found = shape(read(write_model(tmp_path / "m.gguf", "mamba")))
    assert bytes_per_token(found) == 0
    assert recurrent_bytes(found, 3) == 3 * 4 * 4 * (3 * 512 + 16 * 512)


def test_quantized_cells_need_even_heads_and_flash_attention(tmp_path: Path) -> None:
    """What llama.cpp would refuse without a word is refused with the reason."""
    odd = {"llama.attention.key_length": 48, "llama.attention.value_length": 48}
    narrow = shape(read(write_model(tmp_path / "narrow.gguf", "llama", meta=odd)))
    usual = shape(read(write_model(tmp_path / "usual.gguf", "llama")))
    assert quantized_kv_refusal(usual, "q8_0", "q8_0", True) is None
    assert quantized_kv_refusal(narrow, "f16", "f16", False) is None
    assert "48" in (quantized_kv_refusal(narrow, "q8_0", "q8_0", True) or "")
    assert "flash attention" in (quantized_kv_refusal(usual, "q8_0", "q8_0", False) or "")


def test_an_unknown_architecture_says_so(tmp_path: Path) -> None:
    """It is computed as a plain transformer's, and says that it is not known."""
    path = write_model(tmp_path / "m.gguf", "llama")
    path.write_bytes(path.read_bytes().replace(b"llama", b"novel"))
    found = shape(read(path))
    assert not found.known
    assert bytes_per_token(found) == 1024


def test_holes_are_joined_and_used_again() -> None:
    """The smallest hole that fits is taken; neighbours that are freed become one."""
    space = Space()
    first, second, third = (space.take(size) for size in (64, 96, 32))
    space.give(first, 64)
    space.give(second, 96)
    assert space.take(160) == 0
    assert (space.take(32), third) == (192, 160)
    assert space.peak == 224


def test_an_operation_may_take_its_operands_place() -> None:
    """In place only where nothing reads the operand afterwards."""
    last, early = Graph(), Graph()
    last.inplace(last.op(320))
    kept = early.op(320)
    early.inplace(kept)
    early.op(0, kept)
    assert (last.peak(), early.peak()) == (320, 640)


def test_a_hybrid_whose_layers_are_not_told_apart_is_counted_in_full(tmp_path: Path) -> None:
    """Jamba's layers are told apart by their KV heads; without that each has cells and a state."""
    told = shape(read(write_model(tmp_path / "told.gguf", "jamba")))
    same = {"jamba.attention.head_count_kv": 2}
    whole = shape(read(write_model(tmp_path / "same.gguf", "jamba", meta=same)))
    assert bytes_per_token(whole) == 2 * bytes_per_token(told)
    assert recurrent_bytes(whole, 1) == 2 * recurrent_bytes(told, 1)
