"""What a request asks of the answer's form (tools, response_format, grammar), as one grammar.

Runs in the helper process, whose limits bound what a schema may cost. A field of the wrong shape,
or one that has no grammar, is refused by its name; nothing is loosened or left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from backends.engine.gbnf import Node, alt
from backends.engine.grammar import Converter
from backends.engine.schema_shape import SchemaRefused
from backends.engine.tools.base import Family
from backends.engine.tools.calls import arguments_of, section, text_or_calls

MAX_TOOLS = 128
MAX_RAW = 32 * 1024
"""Characters of a grammar that a client writes itself."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FieldRefused(Exception):
    """A request field is at fault; `param` names it."""

    def __init__(self, param: str, why: str) -> None:
        super().__init__(why)
        self.param = param


def checked_tools(tools: Any) -> list[Mapping[str, Any]]:
    """OpenAI's `tools`, well-formed. Raises FieldRefused."""

    def wrong(at: str, why: str) -> NoReturn:
        raise FieldRefused("tools", f"{at} {why}")

    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        wrong("tools", f"must be a list of at most {MAX_TOOLS}")
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            wrong(f"{where}.type", "must be 'function': this model calls no other tools")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            wrong(f"{where}.function", "must be an object")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            wrong(f"{where}.function.name", "must be 1 to 64 letters, digits, '_' or '-'")
        if not isinstance(function.get("description") or "", str):
            wrong(f"{where}.function.description", "must be a string")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            wrong(f"{where}.function.parameters", "must be a schema of an object")
        if parameters is not None and parameters.get("type", "object") != "object":
            wrong(f"{where}.function.parameters.type", "must be 'object'")
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) != len(names):
        wrong("tools", "has two functions of one name")
    return tools


def choice(tools: Sequence[Mapping[str, Any]], said: Any) -> tuple[str, list[str]]:
    """`tool_choice` as a mode (none, auto, required) and the functions that may be called."""
    names = [tool["function"]["name"] for tool in tools]
    if said is None or isinstance(said, str):
        if said not in (None, "auto", "none", "required"):
            raise FieldRefused("tool_choice", "must be auto, none, required or a function's name")
        if said == "required" and not names:
            raise FieldRefused("tool_choice", "is 'required', but there are no tools")
        return (said or "auto") if names else "none", names
    if isinstance(said, Mapping) and said.get("type") == "allowed_tools":
        return _allowed(names, said.get("allowed_tools"))
    return "required", [_named(names, said)]


def _allowed(names: Sequence[str], said: Any) -> tuple[str, list[str]]:
    """OpenAI's `allowed_tools`: of all tools that the model hears of, those that it may call."""
    mode = said.get("mode") if isinstance(said, Mapping) else None
    listed = said.get("tools") if isinstance(said, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise FieldRefused("tool_choice", "allowed_tools needs tools, and a mode: auto or required")
    return mode, list(dict.fromkeys(_named(names, each) for each in listed))


def _named(names: Sequence[str], said: Any) -> str:
    function = said.get("function") if isinstance(said, Mapping) else None
    if not isinstance(function, Mapping) or said.get("type") != "function":
        raise FieldRefused("tool_choice", "must be auto, none, required or one function by name")
    if function.get("name") not in names:
        raise FieldRefused("tool_choice", "names a function that is not in 'tools'")
    return str(function["name"])


def guide(
    family: Family,
    *,
    tools: Any = None,
    tool_choice: Any = None,
    parallel: bool = True,
    response_format: Any = None,
    grammar: Any = None,
) -> tuple[str, bool]:
    """The answer's grammar ("": none), and whether it may hold calls. Raises FieldRefused."""
    listed = checked_tools(tools or [])
    mode, names = choice(listed, tool_choice)
    wanted = _format(response_format)
    if grammar:
        if mode != "none" or wanted is not None:
            raise FieldRefused("grammar", "cannot be combined with tools or response_format")
        if not isinstance(grammar, str) or len(grammar) > MAX_RAW:
            raise FieldRefused("grammar", f"must be a string of at most {MAX_RAW} characters")
        return grammar, False
    converter = Converter()
    try:
        document = None if wanted is None else converter.schema(*wanted)
    except SchemaRefused as error:
        raise FieldRefused("response_format", str(error)) from None
    if mode == "none":
        if document is None:
            return "", False
        return _written(converter, document, "response_format"), False
    try:
        arguments = arguments_of(converter, listed, names)
    except SchemaRefused as error:
        raise FieldRefused("tools", str(error)) from None
    return _written(
        converter, _root(family, converter, arguments, mode, parallel, document), "tools"
    ), True


def _root(
    family: Family,
    converter: Converter,
    arguments: Mapping[str, Node],
    mode: str,
    several: bool,
    document: Node | None,
) -> Node:
    if mode == "required":
        return section(family, converter, arguments, several=several)
    if document is None:
        return text_or_calls(family, converter, arguments, several=several)
    if family.bare:
        raise FieldRefused(
            "response_format",
            "cannot be combined with tools for this model: its calls are JSON objects too",
        )
    return alt([section(family, converter, arguments, several=several), document])


def _format(said: Any) -> tuple[Any, str] | None:
    """`response_format` as a schema and the path where it stands; None for text."""
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise FieldRefused("response_format", "must be an object")
    match said.get("type"):
        case "text" | None:
            return None
        case "json_object":
            # llama.cpp's server and several clouds take a schema here.
            schema = said.get("schema")
            return {"type": "object"} if schema in (None, {}) else schema, "response_format.schema"
        case "json_schema":
            named = said.get("json_schema")
            if not isinstance(named, Mapping) or "schema" not in named:
                raise FieldRefused("response_format", "needs 'json_schema' with a 'schema' in it")
            return named["schema"], "response_format.json_schema.schema"
        case _:
            raise FieldRefused(
                "response_format", "has a type that is not text, json_object or json_schema"
            )


def _written(converter: Converter, root: Node, param: str) -> str:
    try:
        return converter.text(root)
    except SchemaRefused as error:
        raise FieldRefused(param, str(error)) from None
