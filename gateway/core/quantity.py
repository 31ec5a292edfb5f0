"""Sizes and durations as people write them: 8GiB, 200ms."""

from __future__ import annotations

import re
from collections.abc import Mapping

SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?([A-Za-z]*)", re.ASCII)


def size(value: object) -> int:
    """Bytes. Raises ValueError."""
    return int(_quantity(value, SIZES, "a size is a number of bytes, or like 256MiB or 8GiB"))


def duration(value: object) -> float:
    """Seconds. Raises ValueError."""
    return _quantity(value, DURATIONS, "a duration is a number of seconds, or like 200ms, 5s or 1h")


def _quantity(value: object, units: Mapping[str, float], wanted: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    match = QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(wanted)
    return float(match[1]) * units[match[2].lower()]
