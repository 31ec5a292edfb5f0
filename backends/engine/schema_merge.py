"""`allOf` as one schema, and whether the branches of `oneOf` exclude each other.

A grammar can express a union, but not an intersection; so what must hold at once is merged before,
where the merged schema is exactly the intersection, and refused elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

NEVER = False
"""The schema that nothing satisfies."""

ANNOTATIONS = frozenset(
    "title description default examples deprecated readOnly writeOnly $comment $schema $id $defs "
    "definitions discriminator example nullable".split()
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


class CannotMerge(Exception):
    """The message names the keyword."""


def types(schema: Schema) -> frozenset[str]:
    """The types a schema allows; number without integer when both are, since it contains it."""
    said = schema.get("type", list(TYPES))
    found = frozenset([said] if isinstance(said, str) else said)
    return found - {"integer"} if "number" in found else found


def _both_types(a: Schema, b: Schema) -> list[str]:
    ours, theirs = types(a), types(b)
    both = ours & theirs
    for one, other in ((ours, theirs), (theirs, ours)):
        if "integer" in one and "number" in other:
            both |= {"integer"}
    return sorted(both)


def merge(a: Any, b: Any) -> Any:
    """A schema that a value satisfies if it satisfies both. Raises CannotMerge.

    References, `anyOf` and `allOf` are kept as they are if only one side has them.
    """
    if a is False or b is False:
        return NEVER
    if a is True or b is True:
        return b if a is True else a
    lists = "items", "prefixItems"
    if ("prefixItems" in a or "prefixItems" in b) and any(a.get(k) != b.get(k) for k in lists):
        raise CannotMerge("prefixItems")  # `items` speaks of what they leave over
    merged: dict[str, Any] = {}
    for key in dict.fromkeys([*a, *b]):
        if key not in a or key not in b or _same(a[key], b[key]):
            merged[key] = a[key] if key in a else b[key]
        elif key in ANNOTATIONS:
            merged[key] = a[key]
        else:
            merged[key] = _merged(key, a[key], b[key], a, b)
    if _closed(a) or _closed(b):
        _check_closed(a, b)
    if "type" in a and "type" in b and not merged["type"]:
        return NEVER
    return merged


def _merged(key: str, ours: Any, theirs: Any, a: Schema, b: Schema) -> Any:
    match key:
        case "type":
            return _both_types(a, b)
        case "properties":
            return {
                name: merge(ours.get(name, True), theirs.get(name, True))
                for name in dict.fromkeys([*ours, *theirs])
            }
        case "required":
            return list(dict.fromkeys([*ours, *theirs]))
        case "minimum" | "exclusiveMinimum" | "minLength" | "minItems":
            return max(ours, theirs)
        case "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems":
            return min(ours, theirs)
        case "items" if isinstance(ours, list) or isinstance(theirs, list):
            raise CannotMerge(key)  # a tuple in the old spelling
        case "items" | "additionalProperties":
            return merge(ours, theirs)
        case "enum":
            return [value for value in ours if any(_same(value, other) for other in theirs)]
        case "allOf":
            return [*ours, *theirs]
        case _:
            raise CannotMerge(key)


def _same(a: Any, b: Any) -> bool:
    """As JSON: true is not 1, which Python would have it."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _closed(schema: Schema) -> bool:
    return schema.get("additionalProperties", True) not in (True, {})


def _check_closed(a: Schema, b: Schema) -> None:
    """`additionalProperties` speaks of the properties beside it, so both sides must name the same.

    A side without any properties of its own, closed or not, changes nothing in that.
    """
    ours, theirs = a.get("properties", {}).keys(), b.get("properties", {}).keys()
    unknown_to_a = theirs - ours if _closed(a) else set()
    unknown_to_b = ours - theirs if _closed(b) else set()
    if unknown_to_a or unknown_to_b:
        raise CannotMerge("additionalProperties")


def disjoint(a: Any, b: Any) -> bool:
    """Whether surely no value satisfies both: by type, by constant, or by a required member's."""
    if a is False or b is False:
        return True
    if a is True or b is True:
        return False
    values, others = constants(a), constants(b)
    if values is not None and others is not None:
        return not any(value == other for value in values for other in others)
    if "type" in a and "type" in b and not _both_types(a, b):
        return True
    if types(a) != {"object"} or types(b) != {"object"}:
        return False
    needed = set(a.get("required", ())) & set(b.get("required", ()))
    ours, theirs = a.get("properties", {}), b.get("properties", {})
    return any(
        name in ours and name in theirs and disjoint(ours[name], theirs[name]) for name in needed
    )


def constants(schema: Any) -> list[Any] | None:
    """The only values that a schema allows, if it lists them."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return list(listed) if isinstance(listed, list) else None
