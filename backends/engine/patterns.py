"""A JSON schema's `pattern` as grammar: the regular part of ECMAScript's expressions, or a refusal.

Taken: literals, `.`, classes, `\\d \\w \\s` and their opposites, groups, alternatives, quantifiers,
`^` at the beginning and `$` at the end. Refused: what looks around or back, and anchors elsewhere.
The result matches inside a JSON string: a quote or a backslash is written escaped there, and a
control character not at all, so `.` and negated classes leave those out.
"""

from __future__ import annotations

from backends.engine.gbnf import (
    EMPTY,
    MAX_REPEAT,
    Alt,
    Chars,
    Lit,
    Node,
    Rep,
    Seq,
    alt,
    chars,
    seq,
)

MAX_LENGTH = 1000
MAX_DEPTH = 20
MAX_CHOICES = 6
"""Quantifiers that leave a choice: where they overlap, llama.cpp's time grows with each, for every
token of the vocabulary (16 overlapping ones: 10 s)."""
MAX_UNROLLED = 20
"""The same with repetitions written out, as llama.cpp does: each of `(a?){1000}` is a choice of its
own, and 1000 in a row take minutes for one token."""


class PatternRefused(Exception):
    """The message says what of the pattern cannot be turned into a grammar."""


DIGIT = ((0x30, 0x39),)
WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE = ((0x20, 0x20),)
"""What `\\s` writes. What `\\S` must not write is more: ECMAScript's other spaces too."""
_ALL_SPACE = (
    *SPACE,
    *((c, c) for c in (0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF)),
    (0x2000, 0x200A),
)
_UNWRITABLE = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x9F), (0x2028, 0x2029))
PLAIN = Chars(_UNWRITABLE, negated=True)
"""A character that stands in a JSON string as itself, and that `.` means."""

_NAMED = {"d": DIGIT, "w": WORD, "s": SPACE}
_OPPOSITES = {"D": DIGIT, "W": WORD, "S": _ALL_SPACE}
_CONTROL = {"n": "\\n", "t": "\\t", "r": "\\r", "f": "\\f"}
_QUANTIFIERS = "*+?{"


def pattern(source: str) -> Node:
    """What stands between the quotes of a string that matches. Raises PatternRefused.

    Without anchors a pattern may lie anywhere in the string, as JSON schema has it.
    """
    if len(source) > MAX_LENGTH:
        raise PatternRefused(f"it is longer than {MAX_LENGTH} characters")
    reader = _Reader(source)
    begins = reader.take("^")
    node = reader.alternatives(0)
    ends = reader.take("$")
    if not reader.done:
        raise PatternRefused(f"{reader.peek()!r} at {reader.at} stands where it cannot")
    if isinstance(node, Alt) and (begins or ends) and reader.open_alternatives:
        # ^a|b$ anchors each half on one side only
        raise PatternRefused("anchors and alternatives without a group around them")
    if _choices(node) > MAX_UNROLLED:
        raise PatternRefused(
            f"repetitions of what leaves a choice, more than {MAX_UNROLLED} in all"
        )
    anything = Rep(PLAIN)
    return seq(EMPTY if begins else anything, node, EMPTY if ends else anything)


def _choices(node: Node) -> int:
    """How often a reader has to guess: whether one more comes, or nothing does."""
    match node:
        case Seq():
            return sum(map(_choices, node.parts))
        case Alt():
            return sum(map(_choices, node.choices)) + any(map(_may_be_empty, node.choices))
        case Rep():
            copies = max(node.least, node.most or 1, 1)
            return copies * _choices(node.item) + (node.least != node.most)
        case _:
            return 0


def _may_be_empty(node: Node) -> bool:
    match node:
        case Lit():
            return not node.text
        case Seq():
            return all(map(_may_be_empty, node.parts))
        case Alt():
            return any(map(_may_be_empty, node.choices))
        case Rep():
            return node.least == 0 or _may_be_empty(node.item)
        case _:
            return False


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self.at = 0
        self.open_alternatives = False
        self._choices = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self._source)

    def peek(self) -> str:
        return self._source[self.at : self.at + 1]

    def take(self, text: str) -> bool:
        if self._source.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _next(self) -> str:
        if self.done:
            raise PatternRefused("it ends too early")
        self.at += 1
        return self._source[self.at - 1]

    def alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise PatternRefused(f"its groups nest deeper than {MAX_DEPTH}")
        choices = [self._sequence(depth)]
        while self.take("|"):
            choices.append(self._sequence(depth))
            self.open_alternatives = self.open_alternatives or depth == 0
        return alt(choices)

    def _sequence(self, depth: int) -> Node:
        parts = []
        while not self.done and self.peek() not in "|)$":
            parts.append(self._quantified(self._atom(depth)))
        return seq(*parts)

    def _quantified(self, item: Node) -> Node:
        if self.peek() and self.peek() in _QUANTIFIERS:
            least, most = self._times()
            if max(least, most or 0) > MAX_REPEAT:
                raise PatternRefused(f"more than {MAX_REPEAT} repetitions")
            self._choices += least != most
            if self._choices > MAX_CHOICES:
                raise PatternRefused(f"more than {MAX_CHOICES} quantifiers that leave a choice")
            self.take("?")  # lazy or not matters for what is captured, not for what matches
            if self.peek() and self.peek() in _QUANTIFIERS:
                raise PatternRefused("a quantifier of a quantifier")
            return Rep(item, least, most)
        return item

    def _times(self) -> tuple[int, int | None]:
        match self._next():
            case "*":
                return 0, None
            case "+":
                return 1, None
            case "?":
                return 0, 1
        inside, closed, rest = self._source[self.at :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not _number(least) or (most and not _number(most)):
            raise PatternRefused("a brace that is no quantifier")
        self.at = len(self._source) - len(rest)
        if not comma:
            return int(least), int(least)
        if most and int(most) < int(least):
            raise PatternRefused("a quantifier with its bounds the wrong way round")
        return int(least), int(most) if most else None

    def _atom(self, depth: int) -> Node:
        match self._next():
            case "(":
                if self.take("?") and not self.take(":"):
                    raise PatternRefused("groups that look around or have a name or flags")
                node = self.alternatives(depth + 1)
                if not self.take(")"):
                    raise PatternRefused("a group that does not close, or an anchor inside one")
                return node
            case "[":
                return self._class()
            case ".":
                return alt([PLAIN, Lit('\\"'), Lit("\\\\")])
            case "\\":
                return self._escape()
            case c if c in "*+?{}])^":
                raise PatternRefused(f"{c!r} at {self.at - 1} stands where it cannot")
            case c:
                return literal(c)

    def _escape(self) -> Node:
        c = self._next()
        if c in _NAMED:
            return Chars(_NAMED[c])
        if c in _OPPOSITES:
            return written(_OPPOSITES[c], negated=True)
        return literal(self._escaped(c))

    def _escaped(self, c: str) -> str:
        if c in _CONTROL:
            return {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}[c]
        if c in "ux":
            digits = self._source[self.at : self.at + (4 if c == "u" else 2)]
            self.at += len(digits)
            try:
                code = int(digits, 16)
            except ValueError:
                raise PatternRefused("an escape that is no character") from None
            if 0xD800 <= code < 0xE000:
                raise PatternRefused("half of a surrogate pair")
            return chr(code)
        if c.isalnum():
            raise PatternRefused(f"\\{c}")
        return c

    def _class(self) -> Node:
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self._member(ranges)
            if low is None:
                continue
            high = low
            if self.peek() == "-" and self._source[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self._member(ranges)
                if last is None or last < low:
                    raise PatternRefused("a range with its ends the wrong way round")
                high = last
            ranges.append((low, high))
        if not ranges:
            raise PatternRefused("an empty class")
        return written(tuple(ranges), negated=negated)

    def _member(self, ranges: list[tuple[int, int]]) -> int | None:
        """A class's next character; None if it was a class of its own, added to `ranges`."""
        c = self._next()
        if c != "\\":
            return ord(c)
        c = self._next()
        if c in _NAMED:
            ranges.extend(_NAMED[c])
            return None
        if c in _OPPOSITES:
            raise PatternRefused(f"\\{c} inside a class")
        return ord("\b" if c == "b" else self._escaped(c))


def _number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 6


def literal(c: str) -> Node:
    """One character as a JSON string writes it."""
    if c in '"\\':
        return Lit("\\" + c)
    if c in "\n\t\r\f":
        return Lit({"\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f"}[c])
    if ord(c) < 0x20:
        return Lit(f"\\u{ord(c):04x}")
    return Lit(c)


def written(ranges: tuple[tuple[int, int], ...], *, negated: bool = False) -> Node:
    """A class of characters inside a JSON string. Raises PatternRefused if none can be written."""

    def inside(c: str) -> bool:
        return any(low <= ord(c) <= high for low, high in ranges) != negated

    choices: list[Node] = [literal(c) for c in '"\\' if inside(c)]
    if negated:
        choices.append(Chars((*_UNWRITABLE, *ranges), negated=True))
    else:
        plain = tuple(piece for r in ranges for piece in _without(r, _UNWRITABLE))
        choices += [Chars(plain)] if plain else []
        choices += [literal(c) for c in "\n\t\r\f" if inside(c)]
    if not choices:
        raise PatternRefused("a class of characters that a JSON string cannot hold")
    return alt(choices)


def _without(whole: tuple[int, int], holes: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    pieces, (low, high) = [], whole
    for first, last in holes:
        if last < low or first > high:
            continue
        if low < first:
            pieces.append((low, first - 1))
        low = last + 1
    return [*pieces, (low, high)] if low <= high else pieces


HEX = chars("0-9a-fA-F")
_PAIR_FREE = alt(
    [
        seq(chars("0-9a-ceA-CE"), Rep(HEX, 3, 3)),
        seq(chars("fF"), Rep(HEX, 3, 3)),
        seq(chars("dD"), chars("0-7"), Rep(HEX, 2, 2)),
    ]
)
CHARACTER = alt(
    [
        Chars(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)), negated=True),
        seq(Lit("\\"), alt([chars('"\\/bfnrt'), seq(Lit("u"), _PAIR_FREE)])),
    ]
)
"""Any one character of a JSON string. Escaped surrogates are left out: halves of pairs are legal in
JSON and refused by half of its parsers."""
