"""JSON schema → grammar: every text the grammar allows is a document that the schema accepts.

The other direction is not promised. Where a grammar cannot say what a schema says, the schema is
refused with the path of the keyword; where it can only say less (members in the schema's order,
bounded numbers, no members beyond those declared unless the schema says so itself), it says less.
Never more: an answer that a caller's validator refuses is worse than a 400.

Unknown keywords are annotations, as JSON schema has them, and so is a `format` that is not in
`json_rules.FORMATS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from backends.engine.gbnf import MAX_REPEAT, Lit, Node, Ref, Rules, TooLarge, alt, seq
from backends.engine.json_rules import BOOLEAN, FORMATS, NULL, Json, Member, text
from backends.engine.numbers import integers, reals
from backends.engine.patterns import PatternRefused, pattern
from backends.engine.schema_merge import ANNOTATIONS, TYPES, CannotMerge, constants, disjoint, merge
from backends.engine.schema_merge import types as types_of
from backends.engine.schema_shape import MAX_DEPTH, MAX_ENUM, SchemaRefused, check_shape

MAX_NODES = 2000
MAX_GRAMMAR = 512 * 1024
"""Characters of a grammar's text."""

# What would change which documents are right, and has no grammar.
INEXPRESSIBLE = frozenset(
    "not if then else patternProperties propertyNames dependentRequired dependentSchemas "
    "dependencies unevaluatedProperties unevaluatedItems contains minContains maxContains "
    "minProperties maxProperties $dynamicRef $recursiveRef $anchor $dynamicAnchor".split()
)


class Converter:
    """Schemas into one set of rules. `path` is where a schema lies, for messages."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.json = Json(self.rules)

    def schema(self, document: Any, path: str = "") -> Node:
        """The documents that a whole schema accepts. Raises SchemaRefused."""
        try:
            node = _Document(self.json, document, path).root()
        except TooLarge as error:
            raise SchemaRefused(path, str(error)) from None
        if self.rules.endless(node):
            raise SchemaRefused(path, "no finite document satisfies it")
        return node

    def text(self, root: Node) -> str:
        """The grammar, with `root` as its root. Raises SchemaRefused if it is too large."""
        try:
            grammar = self.rules.grammar(root)
        except TooLarge as error:
            raise SchemaRefused("", str(error)) from None
        if len(grammar) > MAX_GRAMMAR:
            raise SchemaRefused("", f"its grammar is longer than {MAX_GRAMMAR} characters")
        return grammar


class _Document:
    """One schema document: references point into it."""

    def __init__(self, json: Json, document: Any, path: str) -> None:
        self._json = json
        self._share = json.rules.share
        self._document = document
        self._path = path
        self._visited = 0
        self._refs: dict[str, Ref] = {}
        check_shape(document, path)

    def root(self) -> Node:
        return self._node(self._document, self._path, frozenset({"#"}), 0)

    def _node(self, schema: Any, path: str, open: frozenset[str], depth: int) -> Node:
        """`open`: references being resolved with nothing written since, so none may come again."""
        self._visited += 1
        if self._visited > MAX_NODES:
            raise SchemaRefused(path, f"more than {MAX_NODES} schemas, references included")
        if depth > MAX_DEPTH:
            raise SchemaRefused(path, f"nests deeper than {MAX_DEPTH}")
        if schema is False:
            raise SchemaRefused(path, "nothing satisfies it")
        if schema is True or not schema.keys() - ANNOTATIONS:
            return self._json.value()
        if "$ref" in schema and not schema.keys() - ANNOTATIONS - {"$ref"}:
            return self._reference(schema["$ref"], path, open, depth)
        schema = self._flat(schema, path, 0)
        if schema is False:
            raise SchemaRefused(path, "nothing satisfies it")
        for key in sorted(INEXPRESSIBLE & schema.keys()):
            raise SchemaRefused(f"{path}.{key}", f"{key!r} cannot be turned into a grammar")
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._union(schema, key, path, open, depth)
        if constants(schema) is not None:
            return self._constants(schema, path)
        nodes = [
            node
            for name in (name for name in TYPES if name in types_of(schema))
            if (node := self._typed(name, schema, path, depth + 1)) is not None
        ]
        if not nodes:
            raise SchemaRefused(path, "nothing satisfies it")
        return self._share(alt(nodes))

    def _reference(self, ref: str, path: str, open: frozenset[str], depth: int) -> Node:
        if ref in open:
            raise SchemaRefused(f"{path}.$ref", "it refers to itself")
        if ref not in self._refs:
            self._refs[ref] = Ref(self._json.rules.reserve())
            node = self._node(self._target(ref, path), f"{self._path}{ref}", open | {ref}, depth)
            self._json.rules.put(self._refs[ref].name, node)
        elif open:
            self._check_progress(ref, path, open)
        return self._refs[ref]

    def _check_progress(self, ref: str, path: str, open: frozenset[str]) -> None:
        """Refuse a cycle of references that writes nothing on its way round."""
        seen, todo = set(), [ref]
        while todo:
            at = todo.pop()
            if at in open:
                raise SchemaRefused(f"{path}.$ref", "it refers to itself")
            if at not in seen:
                seen.add(at)
                todo += _bare_refs(self._target(at, path))

    def _target(self, ref: str, path: str) -> Any:
        where = f"{path}.$ref"
        if ref != "#" and not ref.startswith("#/"):
            raise SchemaRefused(where, "only references into the same schema (#/...) are followed")
        found = self._document
        for part in ref.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise SchemaRefused(where, f"there is no {ref[:100]!r}")
        if not isinstance(found, Mapping | bool):
            raise SchemaRefused(where, f"{ref[:100]!r} is no schema")
        return found

    def _flat(self, schema: Any, path: str, depth: int) -> Any:
        """`allOf`, and a `$ref` with keywords beside it, merged into one schema."""
        if depth > MAX_DEPTH:
            raise SchemaRefused(path, "references that merge without end")
        if not isinstance(schema, Mapping) or not schema.keys() & {"allOf", "$ref"}:
            return schema
        self._visited += 1
        if self._visited > MAX_NODES:
            raise SchemaRefused(path, f"more than {MAX_NODES} schemas, references included")
        result: Any = {k: v for k, v in schema.items() if k not in ("allOf", "$ref")}
        parts = [*schema.get("allOf", ())]
        if "$ref" in schema:
            parts.append(self._target(schema["$ref"], path))
        for at, part in enumerate(parts):
            where = f"{path}.allOf[{at}]" if "allOf" in schema else f"{path}.$ref"
            result = self._merge(result, self._flat(part, where, depth + 1), where)
        return result

    def _merge(self, a: Any, b: Any, path: str) -> Any:
        try:
            return merge(a, b)
        except CannotMerge as error:
            raise SchemaRefused(
                path, f"{str(error)!r} cannot be merged with what must hold beside it"
            ) from None

    def _union(self, schema: Any, key: str, path: str, open: frozenset[str], depth: int) -> Node:
        beside = {k: v for k, v in schema.items() if k != key and k not in ANNOTATIONS}
        plain = not beside
        branches = []
        for at, branch in enumerate(schema[key]):
            where = f"{path}.{key}[{at}]"
            # A branch that is only a reference stays one, so that recursion through it has a rule.
            if not plain:
                branch = self._merge(beside, self._flat(branch, where, 0), where)
            if branch is not False:
                branches.append((branch, where))
        if key == "oneOf":
            self._check_disjoint([self._flat(branch, where, 0) for branch, where in branches], path)
        if not branches:
            raise SchemaRefused(path, "nothing satisfies it")
        return self._share(
            alt(self._node(branch, where, open, depth + 1) for branch, where in branches)
        )

    def _check_disjoint(self, branches: list[Any], path: str) -> None:
        for at, one in enumerate(branches):
            for other in branches[at + 1 :]:
                if not disjoint(one, other):
                    raise SchemaRefused(
                        f"{path}.oneOf",
                        "its branches could both match (give them distinct types or a required "
                        "constant member, or use anyOf)",
                    )

    def _constants(self, schema: Any, path: str) -> Node:
        values = constants(schema) or []
        listed = schema.get("enum")
        allowed = set(map(text, listed)) if listed is not None else None
        more = schema.keys() - ANNOTATIONS - {"const", "enum", "type", "format"}
        if more & _ASSERTING:
            key = min(more & _ASSERTING)
            raise SchemaRefused(f"{path}.{key}", "cannot stand beside enum or const")
        kept = [
            Lit(text(value))
            for value in values
            if _is_one_of(value, types_of(schema)) and (allowed is None or text(value) in allowed)
        ]
        if not kept:
            raise SchemaRefused(path, "nothing satisfies it")
        return self._share(alt(kept))

    def _typed(self, name: str, schema: Any, path: str, depth: int) -> Node | None:
        """The values of one type; None if there are none."""
        match name:
            case "null":
                return NULL
            case "boolean":
                return BOOLEAN
            case "integer":
                return self._integer(schema, path)
            case "number":
                return self._number(schema, path)
            case "string":
                return self._string(schema, path)
            case "array":
                return self._array(schema, path, depth)
            case _:
                return self._object(schema, path, depth)

    def _integer(self, schema: Any, path: str) -> Node | None:
        low, high = _bounds(schema)
        step = schema.get("multipleOf", 1)
        least = (
            None if low is None else math.ceil(low[0]) + (low[1] and low[0] == math.ceil(low[0]))
        )
        most = None if high is None else math.floor(high[0]) - (
            high[1] and high[0] == math.floor(high[0])
        )  # fmt: skip
        if step == 1:
            node = integers(least, most)
            return node and self._share(node)
        if step != int(step) or least is None or most is None or most - least > MAX_ENUM * step:
            raise SchemaRefused(f"{path}.multipleOf", "only of whole numbers in a small range")
        step = int(step)
        multiples = [Lit(str(n)) for n in range(-(-least // step) * step, most + 1, step)]
        return alt(multiples) if multiples else None

    def _number(self, schema: Any, path: str) -> Node | None:
        low, high = _bounds(schema)
        if "multipleOf" in schema:
            if float(schema["multipleOf"]).is_integer():
                return self._integer(schema, path)
            raise SchemaRefused(f"{path}.multipleOf", "only of whole numbers in a small range")
        for name, bound in (("minimum", low), ("maximum", high)):
            if bound is not None and bound[0] != int(bound[0]):
                raise SchemaRefused(f"{path}.{name}", "a number's bounds must be whole numbers")
        node = reals(
            None if low is None else int(low[0]),
            None if high is None else int(high[0]),
            above_low=bool(low and low[1]),
            below_high=bool(high and high[1]),
        )
        return node and self._share(node)

    def _string(self, schema: Any, path: str) -> Node | None:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if most is not None and least > most:
            return None
        if least > MAX_REPEAT:
            raise SchemaRefused(f"{path}.minLength", f"more than {MAX_REPEAT}")
        shape = "pattern" if "pattern" in schema else "format"
        if shape in schema and (shape == "pattern" or schema[shape] in FORMATS):
            if least or most is not None or ("pattern" in schema and "format" in schema):
                raise SchemaRefused(f"{path}.{shape}", "cannot be combined with length or another")
            try:
                inside = pattern(schema[shape]) if shape == "pattern" else FORMATS[schema[shape]]
            except PatternRefused as error:
                raise SchemaRefused(f"{path}.pattern", f"not taken: {error}") from None
            return self._share(self._json.quoted(inside))
        return self._json.string(least, None if most is None else min(most, MAX_REPEAT))

    def _array(self, schema: Any, path: str, depth: int) -> Node | None:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("uniqueItems") and (most is None or most > 1):
            raise SchemaRefused(f"{path}.uniqueItems", "cannot be turned into a grammar")
        prefix_key = "items" if isinstance(schema.get("items"), list) else "prefixItems"
        over_key = "additionalItems" if prefix_key == "items" else "items"
        over = schema.get(over_key, not schema.get(prefix_key))
        prefix = []
        for at, part in enumerate(schema.get(prefix_key, ())):
            if most is not None and at >= most:
                break
            if part is False:
                over, most = False, at
                break
            prefix.append(self._node(part, f"{path}.{prefix_key}[{at}]", frozenset(), depth))
        if schema.get(prefix_key) and over_key not in schema and least > len(prefix):
            over = True
        if most == 0 and least == 0:
            return self._json.array([], None, 0, 0)
        room = over is not False and (most is None or most > len(prefix))
        if (most is not None and least > most) or (not room and least > len(prefix)):
            return None
        if least > MAX_REPEAT:
            raise SchemaRefused(f"{path}.minItems", f"more than {MAX_REPEAT}")
        if most is not None:
            most = min(most, MAX_REPEAT)
        if over is True and not prefix and least == 0 and most is None:
            return self._json.any_array()
        item = self._node(over, f"{path}.{over_key}", frozenset(), depth) if room else None
        return self._share(self._json.array(prefix, item, least, most))

    def _object(self, schema: Any, path: str, depth: int) -> Node | None:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        # Absent, it allows anything; but who declares members wants those.
        extra = schema.get("additionalProperties", not properties)
        members = []
        for name in dict.fromkeys([*properties, *required]):
            value = properties.get(name, schema.get("additionalProperties", True))
            if value is False:
                if name in required:
                    return None
                continue
            where = f"{path}.properties.{name}"
            node = self._share(self._node(value, where, frozenset(), depth))
            members.append(Member(name, node, name in required))
        if extra is True and not members and not properties:
            return self._json.any_object()
        more = None
        if extra is not False:
            node = self._node(extra, f"{path}.additionalProperties", frozenset(), depth)
            more = (self._json.other_key([*properties, *required]), self._share(node))
        return self._share(self._json.object(members, more))


_ASSERTING = frozenset(
    "pattern minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "minItems maxItems uniqueItems items prefixItems additionalItems properties required "
    "additionalProperties".split()
)


def _is_one_of(value: Any, names: frozenset[str]) -> bool:
    match value:
        case None:
            return "null" in names
        case bool():
            return "boolean" in names
        case int() | float():
            whole = isinstance(value, int) or value.is_integer()
            return "number" in names or ("integer" in names and whole)
        case str():
            return "string" in names
        case list():
            return "array" in names
        case _:
            return "object" in names


def _bounds(schema: Any) -> tuple[tuple[float, bool] | None, tuple[float, bool] | None]:
    """The tighter of each pair of bounds, and whether the bound itself is out."""
    lows = [(schema[k], k != "minimum") for k in ("minimum", "exclusiveMinimum") if k in schema]
    highs = [(schema[k], k == "maximum") for k in ("maximum", "exclusiveMaximum") if k in schema]
    low = max(lows) if lows else None
    high = min(highs) if highs else None
    return low, None if high is None else (high[0], not high[1])


def _bare_refs(schema: Any) -> Iterator[str]:
    """References that a schema resolves before it writes anything."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"]
        for key in ("anyOf", "oneOf", "allOf"):
            for branch in schema.get(key, ()):
                yield from _bare_refs(branch)


def json_object() -> str:
    """The grammar of any JSON object: what `response_format: json_object` asks for."""
    converter = Converter()
    return converter.text(converter.json.any_object())


def json_schema(schema: Any, path: str = "") -> str:
    """The grammar of a schema's documents. Raises SchemaRefused."""
    converter = Converter()
    return converter.text(seq(converter.schema(schema, path)))
