"""A grammar as values, and its text in GBNF, the notation llama.cpp reads.

A `Node` describes a set of texts; `Rules` holds named ones that may refer to each other. Before a
grammar is written out it is checked for what llama.cpp would not survive or never finish: its size
once repetitions are unrolled (llama.cpp copies them), and rules that no finite text can satisfy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_REPEAT = 1000
"""Of one element; llama.cpp's own limit is 2000."""
MAX_WEIGHT = 100_000
"""Elements of a whole grammar, repetitions unrolled."""


class TooLarge(Exception):
    """A grammar would take too much memory or time; the message says what of it."""


@dataclass(frozen=True, slots=True)
class Lit:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point in one of `ranges` (ends included), or in none of them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    choices: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rep:
    """`least` to `most` times; most None: no upper bound."""

    item: Node
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


Node: TypeAlias = Lit | Chars | Seq | Alt | Rep | Ref

EMPTY = Lit("")


def seq(*parts: Node) -> Node:
    kept = tuple(part for part in parts if part != EMPTY)
    return kept[0] if len(kept) == 1 else Seq(kept) if kept else EMPTY


def alt(choices: Iterable[Node]) -> Node:
    """Any of them; at least one is needed."""
    kept = tuple(dict.fromkeys(choices))
    return kept[0] if len(kept) == 1 else Alt(kept)


def optional(item: Node) -> Node:
    return Rep(item, 0, 1)


def chars(ranges: str, *, negated: bool = False) -> Chars:
    """From a text of single characters and `a-z` ranges; a `-` itself comes first."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(ranges):
        if at + 2 < len(ranges) and ranges[at + 1] == "-":
            found.append((ord(ranges[at]), ord(ranges[at + 2])))
            at += 3
        else:
            found.append((ord(ranges[at]), ord(ranges[at])))
            at += 1
    return Chars(tuple(found), negated)


@dataclass(slots=True)
class Rules:
    """Named nodes. Names are made here, so that none collides."""

    nodes: dict[str, Node] = field(default_factory=dict)
    _shared: dict[Node, Ref] = field(default_factory=dict)

    def reserve(self) -> str:
        """A name to refer to before its node is known; `put` it later."""
        return self.name(EMPTY)

    def name(self, node: Node) -> str:
        name = f"r{len(self.nodes)}"
        self.nodes[name] = node
        return name

    def put(self, name: str, node: Node) -> None:
        self.nodes[name] = node

    def share(self, node: Node) -> Node:
        """A reference in place of a node that may occur often; equal nodes get one rule."""
        if isinstance(node, Ref | Lit | Chars):
            return node
        if node not in self._shared:
            self._shared[node] = Ref(self.name(node))
        return self._shared[node]

    def grammar(self, root: Node) -> str:
        """The text that llama.cpp takes, with the root rule `root`. Raises TooLarge."""
        self.nodes["root"] = root
        used = _reachable(self.nodes)
        weight = sum(_weight(self.nodes[name]) for name in used)
        if weight > MAX_WEIGHT:
            raise TooLarge(f"its grammar has {weight} elements, more than {MAX_WEIGHT}")
        return "".join(f"{name} ::= {_text(self.nodes[name])}\n" for name in used)

    def endless(self, root: Node) -> bool:
        """Whether no finite text satisfies the root: a required member that needs itself."""
        return not _finite(root, self._finite_names())

    def _finite_names(self) -> set[str]:
        """Each rule is looked at again only when one that it refers to has become known: looking
        at all of them round after round took seconds for a chain of a thousand."""
        users: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            for used in dict.fromkeys(_refs(node)):
                users.setdefault(used, []).append(name)
        known: set[str] = set()
        todo = list(self.nodes)
        while todo:
            name = todo.pop()
            if name not in known and _finite(self.nodes[name], known):
                known.add(name)
                todo += users.get(name, ())
        return known


def _finite(node: Node, known: set[str]) -> bool:
    match node:
        case Seq():
            return all(_finite(part, known) for part in node.parts)
        case Alt():
            return any(_finite(choice, known) for choice in node.choices)
        case Rep():
            return node.least == 0 or _finite(node.item, known)
        case Ref():
            return node.name in known
        case _:
            return True


def _reachable(nodes: Mapping[str, Node]) -> list[str]:
    """Names in the order in which they are met from the root."""
    found = {"root": None}
    todo = ["root"]
    while todo:
        for name in _refs(nodes[todo.pop()]):
            if name not in found:
                found[name] = None
                todo.append(name)
    return list(found)


def _refs(node: Node) -> list[str]:
    match node:
        case Ref():
            return [node.name]
        case Seq():
            return [name for part in node.parts for name in _refs(part)]
        case Alt():
            return [name for choice in node.choices for name in _refs(choice)]
        case Rep():
            return _refs(node.item)
        case _:
            return []


def _weight(node: Node) -> int:
    match node:
        case Lit():
            return len(node.text) + 1
        case Chars():
            return len(node.ranges)
        case Seq():
            return 1 + sum(_weight(part) for part in node.parts)
        case Alt():
            return 1 + sum(_weight(choice) for choice in node.choices)
        case Rep():
            copies = max(node.least, node.most or 1, 1)
            if copies > MAX_REPEAT:
                raise TooLarge(f"{copies} repetitions are more than {MAX_REPEAT}")
            return 2 + copies * (_weight(node.item) + 2)
        case Ref():
            return 1


def _text(node: Node, *, inner: bool = False) -> str:
    """`inner`: inside a sequence or under a repetition, where alternatives need brackets."""
    match node:
        case Lit():
            return '"' + "".join(_literal(c) for c in node.text) + '"'
        case Chars():
            body = "".join(
                _escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}"
                for low, high in node.ranges
            )
            return f"[{'^' if node.negated else ''}{body}]"
        case Seq():
            text = " ".join(_text(part, inner=True) for part in node.parts)
            return f"({text})" if inner else text
        case Alt():
            text = " | ".join(_text(choice, inner=True) for choice in node.choices)
            return f"({text})" if inner else text
        case Rep():
            item = _text(node.item, inner=True)
            if isinstance(node.item, Rep):
                item = f"({item})"
            return item + _times(node.least, node.most)
        case Ref():
            return node.name


def _times(least: int, most: int | None) -> str:
    match (least, most):
        case (0, None):
            return "*"
        case (1, None):
            return "+"
        case (0, 1):
            return "?"
        case (_, None):
            return f"{{{least},}}"
        case _:
            return f"{{{least},{most}}}"


def _literal(c: str) -> str:
    return {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(
        c, c if c.isprintable() else _hex(ord(c))
    )


def _escaped(code: int) -> str:
    c = chr(code)
    return c if c.isascii() and c.isalnum() else _hex(code)


def _hex(code: int) -> str:
    return (
        f"\\x{code:02X}"
        if code < 0x100
        else f"\\u{code:04X}"
        if code < 0x10000
        else f"\\U{code:08X}"
    )
