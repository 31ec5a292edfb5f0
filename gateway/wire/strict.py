"""Strict JSON at the border: what two parsers could read differently is refused.

A body with a key twice, NaN, or deep nesting means one thing to us and may mean another to an
upstream, which is how filters are walked around (operations.md 3.2).
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from gateway.core.errors import InvalidRequest

MAX_DEPTH = 64


def parse(raw: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The JSON object in `raw`. Raises InvalidRequest, never anything else.

    Most SDK bodies come out of a re-serialisation byte for byte, which proves that they hold no
    duplicate key; only the rest pays for the slow parser that looks.
    """
    try:
        value = orjson.loads(raw)
        proven = orjson.dumps(value) == raw
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    # Each level costs a bracket, so few brackets cannot nest deeply.
    if raw.count(b"{") + raw.count(b"[") > max_depth and depth(value) > max_depth:
        raise InvalidRequest(f"The body nests deeper than {max_depth} levels.", code="invalid_json")
    if not proven:
        _refuse_ambiguity(raw)
    return value


def depth(value: Any) -> int:
    """How many containers lie inside each other at most."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        if isinstance(item, dict):
            children: Any = item.values()
        elif isinstance(item, list):
            children = item
        else:
            continue
        deepest = max(deepest, level)
        todo += [(child, level + 1) for child in children]
    return deepest


def _refuse_ambiguity(raw: bytes) -> None:
    try:
        json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded)
    except InvalidRequest:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(
            f"The key {twice[:64]!r} appears twice in one object.", code="invalid_json"
        )
    return seen


def _no_constant(name: str) -> None:
    raise InvalidRequest(f"{name} is not JSON.", code="invalid_json")


def _bounded(digits: str) -> int:
    # Beyond 64 bits parsers differ: some round to a float, some refuse.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise InvalidRequest("An integer does not fit in 64 bits.", code="invalid_json")
    return int(digits)
