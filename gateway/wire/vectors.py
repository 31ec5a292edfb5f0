"""Vectors as they travel inside, little-endian float32 bytes, and as they go out on the wire. Pure.

The bytes are what base64 carries and what a cache keeps; as floats they are four times as long.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Iterable

WIDTH = 4
"""Bytes of one number."""


def pack(numbers: Iterable[float]) -> bytes:
    """Raises TypeError and OverflowError for what is no number of float32."""
    vector = array("f", numbers)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tobytes()


def unpack(vector: bytes) -> list[float]:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def to_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def from_base64(text: str) -> bytes:
    """Raises ValueError for what is not base64 of whole numbers."""
    try:
        vector = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if not vector or len(vector) % WIDTH:
        raise ValueError("not a whole number of float32")
    return vector


def length(vector: bytes) -> int:
    return len(vector) // WIDTH


def shortened(vector: bytes, dimensions: int | None) -> bytes:
    """The first `dimensions` numbers at length one again, as OpenAI shortens them.

    Raises ValueError if there are fewer. Nothing changes where there are just so many.
    """
    if dimensions is None or dimensions == length(vector):
        return vector
    if dimensions > length(vector):
        raise ValueError(f"the model's vectors have {length(vector)} dimensions")
    numbers = unpack(vector[: dimensions * WIDTH])
    norm = math.sqrt(math.fsum(number * number for number in numbers))
    return pack(number / norm for number in numbers) if norm else pack(numbers)
