"""An upstream's JSON: an object or Malformed, and its members by the type that we need of them."""

from __future__ import annotations

from typing import Any

import orjson


class Malformed(ValueError):
    """An answer that is not what its wire promises."""


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises Malformed, without quoting what came."""
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Malformed("not valid JSON") from None
    if not isinstance(parsed, dict):
        raise Malformed("not a JSON object")
    return parsed


def member(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """An object that we need, empty where there is none. Raises Malformed for another type."""
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"`{name}` is not an object")
    return value


def details(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """An object that we can do without: empty whatever else stands there."""
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def string(holder: dict[str, Any], name: str) -> str:
    """A text, empty where there is none. Raises Malformed for another type."""
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"`{name}` is not text")
    return value


def integer(value: Any, default: int) -> int:
    """A count from 0 up, `default` for anything else."""
    # Not isinstance: True is an int, and no count.
    return value if type(value) is int and value >= 0 else default
