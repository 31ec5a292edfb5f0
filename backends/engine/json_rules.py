"""JSON itself as grammar: any value, strings, formats, objects from their members.

Whitespace is bounded: a small model at a high temperature would otherwise write blanks to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.engine.gbnf import EMPTY, Chars, Lit, Node, Ref, Rep, Rules, alt, chars, optional, seq
from backends.engine.numbers import NUMBER
from backends.engine.patterns import CHARACTER

_HEX = chars("0-9a-fA-F")
_DIGIT = chars("0-9")

WS: Node = optional(alt([Lit(" "), seq(Lit("\n"), Rep(Lit(" "), 0, 16))]))
BOOLEAN: Node = alt([Lit("true"), Lit("false")])
NULL: Node = Lit("null")


def _days() -> Node:
    """Only dates that exist every year."""
    days = alt([seq(Lit("0"), chars("1-9")), seq(chars("1-2"), _DIGIT)])
    short = alt([seq(Lit("0"), chars("1-9")), seq(Lit("1"), _DIGIT), seq(Lit("2"), chars("0-8"))])
    thirty = alt([Lit("04"), Lit("06"), Lit("09"), Lit("11")])
    full = alt([Lit(m) for m in ("01", "03", "05", "07", "08", "10", "12")])
    return alt(
        [
            seq(full, Lit("-"), alt([days, Lit("30"), Lit("31")])),
            seq(thirty, Lit("-"), alt([days, Lit("30")])),
            seq(Lit("02-"), short),
        ]
    )


_SIXTY = seq(chars("0-5"), _DIGIT)
_HOURS = alt([seq(chars("0-1"), _DIGIT), seq(Lit("2"), chars("0-3"))])
_DATE = seq(chars("1-2"), Rep(_DIGIT, 3, 3), Lit("-"), _days())
_ZONE = alt([Lit("Z"), seq(chars("-+"), _HOURS, Lit(":"), _SIXTY)])
_TIME = seq(
    _HOURS, Rep(seq(Lit(":"), _SIXTY), 2, 2), optional(seq(Lit("."), Rep(_DIGIT, 1, 6))), _ZONE
)
_WORD = Rep(chars("a-zA-Z0-9"), 1, 32)
_LABEL = seq(_WORD, Rep(seq(Lit("-"), _WORD), 0, 3))
_OCTET = alt(
    [
        _DIGIT,
        seq(chars("1-9"), _DIGIT),
        seq(Lit("1"), _DIGIT, _DIGIT),
        seq(Lit("2"), chars("0-4"), _DIGIT),
        seq(Lit("25"), chars("0-5")),
    ]
)
FORMATS: Mapping[str, Node] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": seq(_DATE, Lit("T"), _TIME),
    "uuid": seq(
        Rep(_HEX, 8, 8), Rep(seq(Lit("-"), Rep(_HEX, 4, 4)), 3, 3), Lit("-"), Rep(_HEX, 12, 12)
    ),
    "email": seq(
        _WORD,
        Rep(seq(chars("-._+"), _WORD), 0, 3),
        Lit("@"),
        _LABEL,
        Rep(seq(Lit("."), _LABEL), 0, 2),
        Lit("."),
        Rep(chars("a-z"), 2, 6),
    ),
    "ipv4": seq(_OCTET, Rep(seq(Lit("."), _OCTET), 3, 3)),
}  # fmt: skip
"""What stands between the quotes. Other formats are annotations, as JSON schema has them."""


_UNWRITABLE = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))


@dataclass(frozen=True, slots=True)
class Member:
    """One property of an object."""

    name: str
    value: Node
    required: bool


def text(value: Any) -> str:
    """A JSON value in the one spelling that `const` and `enum` allow."""
    return json.dumps(value, ensure_ascii=False)


class Json:
    """The rules that every JSON grammar needs, made in `rules` as they are asked for."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._value: Ref | None = None
        self._object: Node | None = None
        self._array: Node | None = None

    @property
    def ws(self) -> Node:
        return self.rules.share(WS)

    def string(self, least: int = 0, most: int | None = None) -> Node:
        inside = Rep(self.rules.share(CHARACTER), least, most)
        return self.rules.share(self.quoted(inside))

    def quoted(self, inside: Node) -> Node:
        return seq(Lit('"'), inside, Lit('"'))

    def number(self) -> Node:
        return self.rules.share(NUMBER)

    def value(self) -> Node:
        """Any JSON value."""
        if self._value is None:
            self._value = Ref(self.rules.reserve())
            scalars = [self.string(), self.number(), BOOLEAN, NULL]
            node = alt([self.any_object(), self.any_array(), *scalars])
            self.rules.put(self._value.name, node)
        return self._value

    def any_object(self) -> Node:
        if self._object is None:
            self._object = self.rules.share(self.object([], (self.string(), self.value())))
        return self._object

    def any_array(self) -> Node:
        if self._array is None:
            self._array = self.rules.share(self.array([], self.value(), 0, None))
        return self._array

    def comma(self) -> Node:
        return self.rules.share(seq(Lit(","), self.ws))

    def object(self, members: Sequence[Member], extra: tuple[Node, Node] | None) -> Node:
        """Members in their order, then any number of `extra` ones (key, value)."""
        share = self.rules.share

        def pair(key: Node, value: Node) -> Node:
            return seq(key, Lit(":"), self.ws, value)

        rest: Node = EMPTY  # what may follow when a member has been written
        first: Node = EMPTY  # and when none has
        if extra is not None:
            one = share(pair(*extra))
            rest = Rep(seq(self.comma(), one))
            first = optional(seq(one, rest))
        for member in reversed(members):
            this = pair(Lit(text(member.name)), member.value)
            rest = share(rest)
            if member.required:
                first = seq(this, rest)
                rest = seq(self.comma(), this, rest)
            else:
                first = alt([seq(this, rest), share(first)])
                rest = seq(optional(seq(self.comma(), this)), rest)
        return seq(Lit("{"), self.ws, first, self.ws, Lit("}"))

    def array(
        self, prefix: Sequence[Node], item: Node | None, least: int, most: int | None
    ) -> Node:
        """`prefix` elements, then `item` ones; at least `least` and at most `most` in all.

        `most` is not below `least`, and without `item` not above the prefix.
        """
        share = self.rules.share
        held = len(prefix)
        tail: Node = EMPTY
        if item is not None and (most is None or most > held):
            following = seq(self.comma(), item)
            tail = Rep(following, max(0, least - held), None if most is None else most - held)
            if not held:
                fewer = Rep(following, max(0, least - 1), None if most is None else most - 1)
                tail = seq(item, fewer) if least else optional(seq(item, fewer))
        for at in reversed(range(held)):
            element = seq(self.comma() if at else EMPTY, prefix[at], share(tail))
            tail = element if at < least else optional(element)
        return seq(Lit("["), self.ws, tail, self.ws, Lit("]"))

    def other_key(self, names: Sequence[str]) -> Node:
        """A key that is none of `names`: a second one of a name would undo the first."""
        if not names:
            return self.string()
        # These keys are written without escapes, so no name that needs one can come out.
        names = [name for name in names if text(name) == f'"{name}"']

        def plain(without: str) -> Chars:
            named = tuple((ord(c), ord(c)) for c in without)
            return Chars((*_UNWRITABLE, *named), negated=True)

        anything = self.rules.share(Rep(plain("")))

        def after(prefix: str) -> Node:
            """What may follow `prefix` so that the whole is no name."""
            longer = sorted({n[len(prefix)] for n in names if n.startswith(prefix) and n != prefix})
            choices: list[Node] = [seq(Lit(c), after(prefix + c)) for c in longer]
            choices.append(seq(plain("".join(longer)), anything))
            if prefix not in names:
                choices.append(EMPTY)
            return self.rules.share(alt(choices))

        return self.rules.share(self.quoted(after("")))
