"""Whether a JSON schema is well-formed wherever the converter reads it: types, depth, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from backends.engine.schema_merge import TYPES

MAX_DEPTH = 40
MAX_ENUM = 1000

_SCHEMAS = ("items", "additionalProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRINGS = ("pattern", "format", "$ref")


class SchemaRefused(Exception):
    """A schema that has no grammar; the message begins with the path of what is at fault."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path or 'the schema'}: {why}")


def check_shape(schema: Any, path: str, depth: int = 0) -> None:
    """Whether a schema is well-formed where it is read at all. Raises SchemaRefused."""

    def wrong(key: str, wanted: str) -> NoReturn:
        raise SchemaRefused(f"{path}.{key}" if key else path, f"must be {wanted}")

    def check(part: Any, where: str) -> None:
        check_shape(part, f"{path}.{where}", depth + 1)

    if depth > MAX_DEPTH:
        raise SchemaRefused(path, f"nests deeper than {MAX_DEPTH}")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        wrong("", "a schema: an object, true or false")
    said = schema.get("type", "object")
    names = said if isinstance(said, list) and said else [said]
    if not all(isinstance(name, str) and name in TYPES for name in names):
        wrong("type", f"of {', '.join(TYPES)}")
    for key in _COUNTS:
        value = schema.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            wrong(key, "a whole number, 0 or more")
    for key in _NUMBERS:
        value = schema.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
            wrong(key, "a number of at most fifteen digits")
        if key == "multipleOf" and value <= 0:
            wrong(key, "above 0")
    for key in _STRINGS:
        if not isinstance(schema.get(key, ""), str):
            wrong(key, "a string")
    for key in ("required", "enum"):
        if not isinstance(schema.get(key, []), list):
            wrong(key, "a list")
    if len(schema.get("enum", ())) > MAX_ENUM:
        wrong("enum", f"no longer than {MAX_ENUM}")
    if not all(isinstance(name, str) for name in schema.get("required", ())):
        wrong("required", "a list of strings")
    for key in ("properties", "$defs", "definitions"):
        parts = schema.get(key, {})
        if not isinstance(parts, Mapping):
            wrong(key, "an object of schemas")
        for name, part in parts.items():
            check(part, f"{key}.{name}")
    for key in _SCHEMAS:
        if key in schema and not (key == "items" and isinstance(schema[key], list)):
            check(schema[key], key)
    for key in (*_LISTS, "items"):
        parts = schema.get(key, [])
        if key == "items" and not isinstance(parts, list):
            continue
        if not isinstance(parts, list) or (key in schema and key != "items" and not parts):
            wrong(key, "a list of schemas")
        for at, part in enumerate(parts):
            check(part, f"{key}[{at}]")
