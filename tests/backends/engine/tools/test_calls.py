"""The grammar of calls and the parser agree, for every family."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from backends.engine.guides import FieldRefused, guide
from backends.engine.tools import FAMILIES
from tests.backends.engine.tools.test_parser import parse
from tests.fakes.gbnf import Gbnf

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 8},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"get_weather": TOOLS[0]["function"]["parameters"], "now": {"maxProperties": 0}}  # type: ignore[index]
EVERY = pytest.mark.parametrize("family", FAMILIES)


def check(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@EVERY
def test_required_calls_are_valid(family: str) -> None:
    """With tool_choice required every answer is calls, all of them with valid arguments."""
    text, calls = guide(FAMILIES[family], tools=TOOLS, tool_choice="required")
    assert calls
    grammar, chance, several = Gbnf(text), random.Random(1), 0
    for _ in range(60):
        content, called = parse(family, [grammar.sample(chance)])
        assert not content.strip()
        assert called
        several += len(called) > 1
        check(called)
    assert bool(several) == FAMILIES[family].parallel


@EVERY
def test_auto_is_text_or_valid_calls(family: str) -> None:
    """With auto an answer may be text or calls; what begins as a call is a valid one."""
    text, _ = guide(FAMILIES[family], tools=TOOLS, parallel=False)
    grammar, chance = Gbnf(text), random.Random(2)
    counts = set()
    for _ in range(300):
        content, called = parse(family, [grammar.sample(chance, 80)])
        check(called)
        counts.add(len(called))
        assert not FAMILIES[family].marker or FAMILIES[family].marker not in content
    assert counts <= {0, 1}
    one = FAMILIES[family]
    call = one.opening + one.before + "now" + one.middle + "{}" + one.after + one.closing
    assert grammar.takes("It is late. <b>{}" + (call if not one.bare else ""))
    assert grammar.takes(call)
    assert not grammar.takes(call.replace("now", "later"))
    assert not grammar.takes(call.replace("{}", '{"x":1}'))


def test_a_named_function_is_the_only_one() -> None:
    """tool_choice by name allows that function and no other."""
    named = {"type": "function", "function": {"name": "now"}}
    text, _ = guide(FAMILIES["hermes"], tools=TOOLS, tool_choice=named)
    assert "get_weather" not in text
    assert "now" in text


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_only_ones(mode: str) -> None:
    """OpenAI's `allowed_tools` takes functions away, and says whether one must be called."""
    only = {"type": "function", "function": {"name": "now"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [only, only]}}
    grammar = Gbnf(guide(FAMILIES["hermes"], tools=TOOLS, tool_choice=allowed)[0])
    assert grammar.takes('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    other = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    assert not grammar.takes(f"<tool_call>\n{other}\n</tool_call>")
    assert grammar.takes("It is late.") == (mode == "auto")


def test_tools_beside_a_schema() -> None:
    """With a response_format the answer is calls or a document of the schema."""
    wanted = {"type": "json_schema", "json_schema": {"schema": {"const": {"a": 1}}}}
    grammar = Gbnf(guide(FAMILIES["hermes"], tools=TOOLS, response_format=wanted)[0])
    assert grammar.takes('{"a": 1}')
    assert grammar.takes('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert not grammar.takes("It is late.")
    with pytest.raises(FieldRefused, match="cannot be combined"):
        guide(FAMILIES["generic"], tools=TOOLS, response_format=wanted)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
                ]
            },
            "tools",
        ),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "now"}}}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "none"}},
            },
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]},
                },
            },
            "tool_choice",
        ),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format",
        ),
        ({"grammar": "x" * 40_000}, "grammar"),
        ({"grammar": "root ::= [a]", "tools": TOOLS}, "grammar"),
    ],
)
def test_wrong_shapes_are_refused(fields: dict[str, object], param: str) -> None:
    """A field of the wrong shape is refused by its name."""
    with pytest.raises(FieldRefused) as caught:
        guide(FAMILIES["hermes"], **fields)  # type: ignore[arg-type]
    assert caught.value.param == param


def test_a_schema_without_a_grammar_names_its_path() -> None:
    """The path goes from the request's field to the keyword."""
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}},
    }
    with pytest.raises(FieldRefused, match=r"tools\[0\]\.function\.parameters\.properties\.a\.not"):
        guide(FAMILIES["hermes"], tools=[tool])
