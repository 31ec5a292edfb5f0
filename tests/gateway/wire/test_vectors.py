"""Vectors as bytes: there and back, and shortened."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import vectors

NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=32)


@given(NUMBERS)
def test_there_and_back(numbers: list[float]) -> None:
    """float32 numbers survive packing and base64, in little-endian order on every machine."""
    packed = vectors.pack(numbers)
    assert packed == struct.pack(f"<{len(numbers)}f", *numbers)
    assert vectors.unpack(packed) == numbers
    assert vectors.from_base64(vectors.to_base64(packed)) == packed


@given(NUMBERS, st.integers(1, 32))
def test_shortening_keeps_the_direction_at_length_one(numbers: list[float], wanted: int) -> None:
    """The first numbers, at length one; a vector that is short enough is left alone."""
    packed = vectors.pack(numbers)
    if wanted > len(numbers):
        with pytest.raises(ValueError, match=str(len(numbers))):
            vectors.shortened(packed, wanted)
        return
    made = vectors.unpack(vectors.shortened(packed, wanted))
    if wanted == len(numbers):
        assert made == numbers
        return
    kept = numbers[:wanted]
    norm = math.sqrt(math.fsum(n * n for n in kept))
    assert len(made) == wanted
    if norm > 1e-30:
        assert made == pytest.approx([n / norm for n in kept], abs=1e-6)


@pytest.mark.parametrize("text", ["", "!!!!", "AAA=", "AAAAAAA="])
def test_what_is_no_vector(text: str) -> None:
    """Bad base64 and half numbers are refused."""
    with pytest.raises(ValueError):
        vectors.from_base64(text)
