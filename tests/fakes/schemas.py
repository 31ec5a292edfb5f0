"""Random JSON schemas of the kind that clients send, all of which have documents."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("name", "age", "ag", "tags", 'quo"te', "a b", "größe", "id", "next", "x")


def schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """One schema document; sometimes it refers to itself."""
    document = _schema(chance, depth)
    if chance.random() < 0.25:
        item = {
            "type": "object",
            "properties": {
                "value": _schema(chance, 0),
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {"it": document, "list": {"$ref": "#/$defs/node"}},
            "required": ["list"],
            "$defs": {"node": item},
        }
    return document


def _schema(chance: random.Random, depth: int) -> dict[str, Any]:
    makers = [_string, _integer, _number, _scalar, _constant]
    if depth > 0:
        makers += [_object, _object, _object, _array, _tuple, _union, _all]
    return chance.choice(makers)(chance, depth - 1)


def _string(chance: random.Random, depth: int) -> dict[str, Any]:
    more = chance.choice(
        [
            {},
            {"minLength": 2},
            {"maxLength": 5},
            {"minLength": 1, "maxLength": 3},
            {"format": chance.choice(["date", "time", "date-time", "uuid", "email", "ipv4"])},
            {"pattern": chance.choice(PATTERNS)},
            {"format": "uri-of-no-standard", "title": "t"},
        ]
    )
    return {"type": "string", **more}


PATTERNS = (
    r"^[A-Z]{2}\d{4}$",
    r"^(red|green|blue)-?\w+$",
    r"^\+?[0-9 ]{3,12}$",
    r"^[^\"a-f]{1,4}$",
    r"colou?r",
    r"^\S+@\S+\.(com|org)$",
    r"^a.c",
    r"[\d.]+%$",
    r"^\\[\"\\/]x$",
)


def _integer(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.randint(-500, 500)
    high = low + chance.choice([0, 1, 9, 77, 5000])
    more = chance.choice(
        [
            {},
            {"minimum": low},
            {"maximum": high},
            {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
            {"minimum": 0, "maximum": 60, "multipleOf": 5},
        ]
    )
    return {"type": "integer", **more}


def _number(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.randint(-20, 20)
    more = chance.choice(
        [
            {},
            {"minimum": low, "maximum": low + 3},
            {"exclusiveMinimum": low},
            {"minimum": low, "exclusiveMaximum": low + 1},
            {"maximum": low},
        ]
    )
    return {"type": "number", **more}


def _scalar(chance: random.Random, depth: int) -> dict[str, Any]:
    return chance.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}])


def _constant(chance: random.Random, depth: int) -> dict[str, Any]:
    return chance.choice(
        [
            {"const": chance.choice([1, "a\nb", None, True, {"k": [1, "é"]}])},
            {"type": "string", "enum": ["x", "y", 'z"']},
            {"enum": [1, 2.5, "drei", False, None]},
        ]
    )


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(NAMES, chance.randint(0, 4))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(chance, depth) for name in names},
        "required": [name for name in names if chance.random() < 0.5],
    }
    extra = chance.choice([None, False, True, _schema(chance, 0)])
    if extra is not None:
        made["additionalProperties"] = extra
    return made


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    more = chance.choice([{}, {"minItems": 1}, {"maxItems": 3}, {"minItems": 2, "maxItems": 2}])
    return {"type": "array", "items": _schema(chance, depth), **more}


def _tuple(chance: random.Random, depth: int) -> dict[str, Any]:
    more = chance.choice(
        [{}, {"items": False, "minItems": 2}, {"items": {"type": "null"}, "minItems": 3}]
    )
    return {"type": "array", "prefixItems": [_schema(chance, depth) for _ in range(2)], **more}


def _union(chance: random.Random, depth: int) -> dict[str, Any]:
    if chance.random() < 0.5:
        return {"anyOf": [_schema(chance, depth) for _ in range(2)]}
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": _schema(chance, depth)},
                "required": ["kind", "value"],
            }
            for kind in ("a", "b")
        ]
    }


def _all(chance: random.Random, depth: int) -> dict[str, Any]:
    return {
        "allOf": [
            {"type": "object", "properties": {"a": _schema(chance, depth)}, "required": ["a"]},
            {"properties": {"b": _integer(chance, 0)}, "required": ["b"]},
        ],
        "properties": {"b": {"type": "integer", "minimum": -(10**6)}},
    }
