"""GBNF read from its text, so that tests can write what a grammar allows and check what it takes.

Independent of backends/engine/gbnf.py: it reads the text that llama.cpp gets.
"""

from __future__ import annotations

import random
import re
from typing import Any

_TOKEN = re.compile(
    r"""\s+|(?P<name>[A-Za-z][\w-]*)(?P<is>\s*::=)?|(?P<text>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<times>\{\d+(?:,\d*)?\}|[*+?])|(?P<mark>[()|])"""
)
_ESCAPE = re.compile(r"\\(x[0-9A-F]{2}|u[0-9A-F]{4}|U[0-9A-F]{8}|.)", re.S)


def _code(match: re.Match[str]) -> str:
    body = match[1]
    if body[0] in "xuU" and len(body) > 1:
        return chr(int(body[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r"}.get(body, body)


def _units(text: str) -> list[tuple[str, bool]]:
    """Characters, and whether each was escaped."""
    units, at = [], 0
    while at < len(text):
        if match := _ESCAPE.match(text, at):
            units.append((_code(match), True))
            at = match.end()
        else:
            units.append((text[at], False))
            at += 1
    return units


class Gbnf:
    """Parsed rules: ("lit", text) ("set", ranges, negated) ("seq", …) ("alt", …) ("rep", …)."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Any] = {}
        tokens, at = [], 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match, f"no GBNF at {text[at : at + 40]!r}"
            at = match.end()
            if match.lastgroup:
                kind = "is" if match["is"] else match.lastgroup
                tokens.append((kind, match["name"] if kind == "is" else match[match.lastgroup]))
        self._tokens = tokens
        self._at = 0
        while self._at < len(tokens):
            kind, name = self._next()
            assert kind == "is", (kind, name)
            self.rules[name] = self._alternatives()
        used = {name for kind, name in tokens if kind == "name"}
        assert used <= self.rules.keys(), used - self.rules.keys()
        self._least = self._shortest()

    def _next(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _alternatives(self) -> Any:
        choices = [self._sequence()]
        while self._peek() == ("mark", "|"):
            self._next()
            choices.append(self._sequence())
        return ("alt", choices)

    def _sequence(self) -> Any:
        parts: list[Any] = []
        while self._peek()[0] not in ("end", "is") and self._peek() not in (
            ("mark", "|"),
            ("mark", ")"),
        ):
            kind, text = self._next()
            if kind == "times":
                least, _, most = text.strip("{}").partition(",")
                bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(text) or (
                    int(least),
                    (int(most) if most else None) if "," in text else int(least),
                )
                parts[-1] = ("rep", parts[-1], *bounds)
            elif kind == "text":
                parts.append(("lit", "".join(c for c, _ in _units(text[1:-1]))))
            elif kind == "set":
                parts.append(self._set(text[1:-1]))
            elif kind == "name":
                parts.append(("ref", text))
            else:
                assert (kind, text) == ("mark", "("), (kind, text)
                parts.append(self._alternatives())
                assert self._next() == ("mark", ")")
        return ("seq", parts)

    @staticmethod
    def _set(body: str) -> Any:
        negated = body.startswith("^")
        units = _units(body[negated:])
        ranges, at = [], 0
        while at < len(units):
            if at + 2 < len(units) and units[at + 1] == ("-", False):
                ranges.append((ord(units[at][0]), ord(units[at + 2][0])))
                at += 3
            else:
                ranges.append((ord(units[at][0]), ord(units[at][0])))
                at += 1
        return ("set", ranges, negated)

    def _shortest(self) -> dict[str, int]:
        """Fewest characters of each rule: where a sampler goes when it should come to an end."""
        least = dict.fromkeys(self.rules, 10**6)
        changed = True
        while changed:
            changed = False
            for name, node in self.rules.items():
                size = self._size(node, least)
                if size < least[name]:
                    least[name] = size
                    changed = True
        return least

    def _size(self, node: Any, least: dict[str, int]) -> int:
        match node:
            case ("lit", text):
                return len(text)
            case ("set", *_):
                return 1
            case ("seq", parts):
                return sum(self._size(p, least) for p in parts)
            case ("alt", choices):
                return min(self._size(c, least) for c in choices)
            case ("rep", item, low, _):
                return low * self._size(item, least) if low else 0
            case ("ref", name):
                return least[name]
        raise AssertionError(node)

    def sample(self, chance: random.Random, budget: int = 400) -> str:
        """A text of the grammar; beyond `budget` characters it takes the shortest way out."""
        out: list[str] = []
        todo: list[Any] = [("ref", "root")]
        length = 0
        while todo:
            node = todo.pop()
            short = length > budget
            match node:
                case ("lit", text):
                    out.append(text)
                    length += len(text)
                case ("set", ranges, negated):
                    out.append(self._char(ranges, negated, chance))
                    length += 1
                case ("seq", parts):
                    todo += reversed(parts)
                case ("alt", choices):
                    if short:
                        todo.append(min(choices, key=lambda c: self._size(c, self._least)))
                    else:
                        todo.append(chance.choice(choices))
                case ("rep", item, low, high):
                    most = low + 4 if high is None else high
                    todo += [item] * (low if short else chance.randint(low, min(most, low + 4)))
                case ("ref", name):
                    todo.append(self.rules[name])
        return "".join(out)

    @staticmethod
    def _char(ranges: Any, negated: bool, chance: random.Random) -> str:
        if not negated:
            low, high = chance.choice(ranges)
            return chr(chance.randint(low, high))
        pool = " abcxyzAZ019_-.,:;{}[]<>/'\"\\\n\té€漢😀"
        fit = [c for c in pool if not any(low <= ord(c) <= high for low, high in ranges)]
        return chance.choice(fit)

    def takes(self, text: str) -> bool:
        """Whether the whole text is of the grammar (backtracking: for short texts)."""
        return any(end == len(text) for end in self._ends(("ref", "root"), text, 0))

    def _ends(self, node: Any, text: str, at: int) -> set[int]:
        match node:
            case ("lit", want):
                return {at + len(want)} if text.startswith(want, at) else set()
            case ("set", ranges, negated):
                if at >= len(text):
                    return set()
                held = any(low <= ord(text[at]) <= high for low, high in ranges)
                return {at + 1} if held != negated else set()
            case ("seq", parts):
                places = {at}
                for part in parts:
                    places = {end for place in places for end in self._ends(part, text, place)}
                return places
            case ("alt", choices):
                return {end for choice in choices for end in self._ends(choice, text, at)}
            case ("rep", item, low, high):
                places, found, times = {at}, {at} if low == 0 else set(), 0
                while places and (high is None or times < high):
                    places = {e for p in places for e in self._ends(item, text, p)} - (
                        found if times >= low else set()
                    )
                    times += 1
                    if times >= low:
                        found |= places
                return found
            case ("ref", name):
                return self._ends(self.rules[name], text, at)
        raise AssertionError(node)
