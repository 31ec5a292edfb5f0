"""YAML text → plain values, with the place of every key and value kept for error messages.

Plain data only: no tags, no merge keys, no repeated keys, one document. Scalars follow YAML 1.2's
core schema, so that `no`, `on` and `22:30` are text and not a boolean or a number of minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.core.flaw import Flaw, Path

MAX_DEPTH = 32
MAX_NODES = 100_000
"""Anchors let a short file stand for a huge one; a configuration never needs this many values."""

_PREFIX = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader's syntax with the core schema's few implicit types."""


# Our own table: SafeLoader's is shared by everyone who loads YAML in this process.
_Loader.yaml_implicit_resolvers = {}

for _kind, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", "~nN"),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        "-+.0123456789",
    ),
):
    _first_characters = [*_first, ""] if _kind == "null" else list(_first)
    _Loader.add_implicit_resolver(_PREFIX + _kind, re.compile(_pattern + r"\Z"), _first_characters)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the text, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and where it says it. `keys` and `values` are by path."""

    value: Any
    keys: Mapping[Path, Place]
    values: Mapping[Path, Place]
    flaws: tuple[tuple[Flaw, Place], ...]

    def place(self, flaw: Flaw) -> Place | None:
        """Where a flaw is. A path that is not in the text stands for its nearest parent that is."""
        path = flaw.path
        if flaw.at_key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path)


def parse(text: str) -> Document:
    """Read a text. Never raises: what cannot be read is a flaw, and the value then None."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        return _broken(f"not YAML: {error.problem or error.context}", place)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        return _broken("not YAML: a control character", place)
    except RecursionError:
        return _broken(f"values nest at most {MAX_DEPTH} deep", Place(1, 1))
    except (ValueError, OverflowError):
        # PyYAML turns a \U escape into a character without asking whether there is one.
        return _broken("not YAML: an escape that is no character", Place(1, 1))
    reader = _Reader()
    value = reader.read(node, (), 0) if node is not None else None
    return Document(value, reader.keys, reader.values, tuple(reader.flaws))


def _broken(message: str, place: Place) -> Document:
    return Document(None, {}, {}, ((Flaw((), message), place),))


class _Reader:
    """One walk over a node tree, gathering values, places and flaws."""

    def __init__(self) -> None:
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.flaws: list[tuple[Flaw, Place]] = []
        self._nodes = 0

    def read(self, node: Node, path: Path, depth: int) -> Any:
        place = _place(node)
        self.values[path] = place
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            # Deep enough also for an anchor inside itself, which would never end.
            if self._nodes <= MAX_NODES + 1:
                self._flaw(path, "too many values, or nested too deep", place)
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            if node.tag != _PREFIX + "seq":
                self._flaw(path, f"tags are not supported: {node.tag}", place)
            return [self.read(n, (*path, i), depth + 1) for i, n in enumerate(node.value)]
        return self._scalar(node, path, place)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Any]:
        if node.tag != _PREFIX + "map":
            self._flaw(path, f"tags are not supported: {node.tag}", _place(node))
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node)
            if not isinstance(key_node, ScalarNode):
                self._flaw(path, "a key is text", place)
                continue
            key = key_node.value
            here = (*path, key)
            if key == "<<":
                self._flaw(here, "merge keys (<<) are not supported; write the keys out", place)
            elif key in result:
                first = self.keys[here].line
                self._flaw(here, f"{key!r} is here twice, first in line {first}", place)
            else:
                self.keys[here] = place
                result[key] = self.read(value_node, here, depth + 1)
        return result

    def _scalar(self, node: Node, path: Path, place: Place) -> Any:
        text = str(node.value)
        match node.tag.removeprefix(_PREFIX):
            case "str":
                return self._text(text, path, place)
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._number(lambda: int(text, 0 if text[:2] in ("0o", "0x") else 10), path)
            case "float":
                return self._number(lambda: float(re.sub(r"\.(?=[A-Za-z])", "", text)), path)
        self._flaw(path, f"tags are not supported: {node.tag}", place)
        return None

    def _text(self, text: str, path: Path, place: Place) -> str | None:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._flaw(path, "half of a surrogate pair is no character", place)
            return None
        return text

    def _number(self, convert: Any, path: Path) -> Any:
        try:
            return convert()
        except ValueError:
            self._flaw(path, "not a number, or one with too many digits", self.values[path])
            return None

    def _flaw(self, path: Path, message: str, place: Place) -> None:
        self.flaws.append((Flaw(path, message), place))


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
