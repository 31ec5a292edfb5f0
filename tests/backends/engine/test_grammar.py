"""JSON schema → grammar: whatever a grammar allows, the schema accepts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.gbnf import Lit, Node, Ref, Rules
from backends.engine.grammar import json_object, json_schema
from backends.engine.schema_shape import SchemaRefused
from tests.fakes.gbnf import Gbnf
from tests.fakes.schemas import schema


def validator(wanted: Any) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(wanted)
    return jsonschema.Draft202012Validator(
        wanted, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_schemas(seed: int) -> None:
    """Each of 200 random schemas has a grammar, and 20 texts of it are documents it accepts."""
    chance = random.Random(seed)
    wanted = schema(chance)
    check = validator(wanted)
    grammar = Gbnf(json_schema(wanted))
    for _ in range(20):
        text = grammar.sample(chance)
        check.validate(json.loads(text))


def test_llama_cpp_reads_them_all(bundled_draft: Path) -> None:
    """llama.cpp's own parser takes the grammar of each of the 200 schemas."""
    from backends.engine.llama import library
    from backends.engine.llama.grammar import Grammar
    from backends.engine.llama.model import Model

    library.start()
    model = Model(bundled_draft, vocab_only=True)
    for seed in range(200):
        Grammar(model, json_schema(schema(random.Random(seed)))).close()
    model.close()


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 12}, ["3", "9", "12"], ["2", "13", "3.5"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.5", "1", "7.25"], ["0", "-1", "0.0"]),
        ({"type": "string", "maxLength": 2}, ['""', '"é😀"', '"\\n"'], ['"abc"', '"\\ud800"']),
        ({"type": "string", "pattern": "^a|b$"}, None, None),
        ({"type": "string", "pattern": "b+"}, ['"abba"', '"b"'], ['"aa"']),
        ({"type": "string", "format": "date"}, ['"2026-02-28"'], ['"2026-02-31"', '"x"']),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "true"]),
        ({"const": {"a": 1}}, ['{"a": 1}'], ['{"a":2}']),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
            ['{"b":1}', '{"a":1,"b":[]}'],
            ['{"a":1}', '{"b":1,"a":1}', '{"b":1,"c":1}'],
        ),
        (
            {"properties": {"a": {"const": 1}}, "additionalProperties": True, "type": "object"},
            ['{"a":1,"ab":2}', '{"b":3}'],
            ['{"a":2}', '{"b":3,"a":1}', '{"\\u0061":2}'],
        ),
        ({"type": "array", "items": {"const": 1}, "minItems": 1}, ["[1]", "[1, 1]"], ["[]", "[2]"]),
        (
            {"prefixItems": [{"const": 1}, {"const": 2}], "items": False, "type": "array"},
            ["[]", "[1]", "[1,2]"],
            ["[2]", "[1,2,3]"],
        ),
        (
            {"type": "array", "items": {"$ref": "#"}},
            ["[]", "[[],[[]]]"],
            ["[1]"],
        ),
        ({"allOf": [{"minimum": 2}, {"type": "integer", "maximum": 3}]}, ["2", "3"], ["1", "4"]),
        ({"type": ["boolean", "null"]}, ["true", "null"], ["0"]),
        (
            {"type": ["integer", "null"], "minimum": 1, "maximum": 5, "multipleOf": 10},
            ["null"],
            ["0", "10"],
        ),
        (
            {"type": "integer", "minimum": -7, "maximum": 10**15, "multipleOf": 10**13},
            ["0", f"{10**15}"],
            ["1", f"{-10**13}"],
        ),
        (
            {"type": "string", "pattern": r"^\d{1,3}(?:\.\d{1,3}){3}(?:/[a-z]{1000})?$"},
            ['"1.20.255.0"', '"10.0.0.1/' + "x" * 1000 + '"'],
            ['"1.2.3"', '"1.2.3.4444"'],
        ),
        (
            {"type": "string", "pattern": r"^\S$"},
            ['"a"', '"é"'],
            [f'"{c}"' for c in " \u00a0\u1680\u2003\u2028\u202f\u3000\ufeff"],
        ),
    ],
)  # fmt: skip
def test_what_is_allowed_and_what_is_not(
    wanted: Any, right: list[str] | None, wrong: list[str] | None
) -> None:
    """Grammars take these documents and not those."""
    if right is None or wrong is None:
        with pytest.raises(SchemaRefused, match="anchors"):
            json_schema(wanted)
        return
    grammar = Gbnf(json_schema(wanted))
    assert [text for text in right if not grammar.takes(text)] == []
    assert [text for text in wrong if grammar.takes(text)] == []


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ({"properties": {"a": {"not": {}}}}, r"^S\.properties\.a\.not: "),
        ({"items": {"if": {}}}, r"^S\.items\.if: "),
        ({"patternProperties": {}}, r"S\.patternProperties"),
        ({"type": "array", "uniqueItems": True}, r"S\.uniqueItems"),
        ({"type": "string", "pattern": "(?=a)"}, r"S\.pattern: .*look around"),
        ({"type": "string", "pattern": r"(a)\1"}, r"S\.pattern"),
        ({"type": "string", "pattern": r"^a*a*a*a*a*a*a*$"}, r"S\.pattern: .*quantifiers"),
        ({"type": "string", "pattern": r"^(a?){1000}$"}, r"S\.pattern: .*repetitions"),
        ({"type": "string", "pattern": r"^(?:a|){1000}$"}, r"S\.pattern: .*repetitions"),
        ({"type": "string", "pattern": r"^((.{0,9}){9}){9}$"}, r"S\.pattern: .*repetitions"),
        ({"type": "string", "minLength": 5000}, r"S\.minLength"),
        ({"type": "number", "minimum": 0.5}, r"S\.minimum"),
        ({"type": "number", "multipleOf": 0.1}, r"S\.multipleOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, r"S\.oneOf"),
        ({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, r"S\.oneOf"),
        ({"$ref": "http://elsewhere/"}, r"S\.\$ref"),
        ({"$ref": "#/$defs/none"}, r"S\.\$ref: there is no"),
        ({"$ref": "#"}, r"\$ref: it refers to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, r"it refers to itself"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no finite"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "nothing satisfies"),
        ({"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 10}, "nothing satisfies"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, r"allOf\[1\]: 'pattern'"),
        ({"allOf": [{"items": [True]}, {"items": {"type": "null"}}]}, r"allOf\[1\]: 'items'"),
        ({"type": "strnig"}, r"S\.type"),
        ({"properties": []}, r"S\.properties"),
        ({"required": "a"}, r"S\.required"),
        ({"minItems": -1}, r"S\.minItems"),
        ([], "^S: "),
        (False, "nothing satisfies"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_its_path(wanted: Any, path: str) -> None:
    """No keyword is loosened in silence: the refusal names where it stands."""
    with pytest.raises(SchemaRefused, match=path):
        json_schema(wanted, "S")


def test_sizes_are_bounded() -> None:
    """Deep, wide and multiplying schemas are refused instead of growing."""
    deep: Any = {}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaRefused, match="deeper"):
        json_schema(deep)
    with pytest.raises(SchemaRefused, match="more than"):
        json_schema({"properties": {str(i): {"type": "string"} for i in range(3000)}})
    many = {"type": "array", "maxItems": 900, "minItems": 900}
    product = {**many, "items": {**many, "items": {**many, "items": {"const": "x" * 900}}}}
    with pytest.raises(SchemaRefused, match="elements"):
        json_schema(product)
    names = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(15)}
    doubling: Any = {"$ref": "#/$defs/d0", "$defs": {**names, "d15": {"type": "string"}}}
    with pytest.raises(SchemaRefused, match="more than"):
        json_schema(doubling)


def test_long_chains_are_looked_at_once() -> None:
    """Whether a document can be finite takes one look at each rule, however they hang together."""
    looked = 0

    class Counted(dict[str, Node]):
        def __getitem__(self, name: str) -> Node:
            nonlocal looked
            looked += 1
            return super().__getitem__(name)

        def items(self) -> Any:
            nonlocal looked
            looked += len(self)
            return super().items()

    size = 1000
    for links in (range(size - 1), reversed(range(size - 1))):
        nodes = {f"r{i}": Ref(f"r{i + 1}") for i in links}
        rules = Rules(Counted({**nodes, f"r{size - 1}": Lit("a")}))
        looked = 0
        assert not rules.endless(Ref("r0"))
        assert looked < 4 * size


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=3))
def test_json_mode_takes_any_object(document: dict[str, Any]) -> None:
    """json_object's grammar takes whatever object json.dumps writes."""
    assert Gbnf(json_object()).takes(json.dumps(document, ensure_ascii=False))
    assert not Gbnf(json_object()).takes(json.dumps([document]))
