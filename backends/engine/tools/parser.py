"""From a model's text to content and tool-call deltas, as the text comes.

Wherever the text is cut into pieces, what comes out adds up to the same. Blanks between the pieces
of a format are free, since models differ in them and only the grammar is exact. What turns out not
to be a call after all (a model without the grammar, a recorded answer) goes on as text from there;
markers are never shown.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.engine.tools.base import Family
from gateway.core.events import TextDelta, ToolCallDelta

Delta: TypeAlias = TextDelta | ToolCallDelta

_NAME = frozenset(string.ascii_letters + string.digits + "_-.")


class _Arguments:
    """Finds the end of a JSON object."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def ends(self, c: str) -> bool:
        """Take one character; whether it is the object's last."""
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif c == "\\":
                self._escaped = True
            elif c == '"':
                self._quoted = False
        elif c == '"':
            self._quoted = True
        elif c in "{[":
            self._depth += 1
        elif c in "}]":
            self._depth -= 1
        return self._depth <= 0 and not self._quoted


@dataclass(slots=True)
class _Expected:
    """Fixed texts of which one should come, and the state after each. Blanks do not count."""

    options: dict[str, str]
    seen: str = ""
    raw: str = ""


def _bare(text: str) -> str:
    return "".join(text.split())


@dataclass(slots=True)
class CallParser:
    """One answer. `feed` its text, then `finish`.

    `calls` counts those begun, `whole` those that have all their arguments.
    """

    family: Family
    calls: int = 0
    whole: int = 0
    _held: str = ""
    _state: str = "text"
    _begun: bool = False
    _name: str = ""
    _expected: _Expected = field(default_factory=lambda: _Expected({}))
    _arguments: _Arguments = field(default_factory=_Arguments)
    _piece: str = ""
    _out: list[Delta] = field(default_factory=list)

    def feed(self, text: str) -> list[Delta]:
        while text:
            text = self._read_text(text) if self._state == "text" else self._read_section(text)
        self._flush_piece()
        out, self._out = self._out, []
        return out

    def finish(self) -> list[Delta]:
        """What was held back when the answer ends."""
        held, self._held = self._held, ""
        if self._state == "text" and held and not (self.calls and not held.strip()):
            self._out.append(TextDelta(text=held))
        out, self._out = self._out, []
        return out

    def _read_text(self, text: str) -> str:
        """Show what cannot be a call's beginning; what is left once a section begins."""
        held, self._held = self._held + text, ""
        family = self.family
        if family.bare and not self._begun and held.lstrip().startswith(family.before[:1]):
            return self._enter(held.lstrip(), family.before)
        found = held.find(family.marker) if family.marker else -1
        if found >= 0:
            self._show(held[:found].rstrip())
            rest = held[found + len(family.marker) :]
            start = family.opening + family.before
            return self._enter(rest, start if family.bare else start[len(family.marker) :])
        keep = next(
            (n for n in range(len(family.marker) - 1, 0, -1) if held.endswith(family.marker[:n])), 0
        )
        shown = held[: len(held) - keep].rstrip()
        self._show(shown)
        self._held = held[len(shown) :]
        return ""

    def _show(self, text: str) -> None:
        if text:
            self._begun = True
            self._out.append(TextDelta(text=text))

    def _enter(self, rest: str, start: str) -> str:
        self._begun = True
        self._expect({start: "name"})
        return rest

    def _expect(self, options: dict[str, str]) -> None:
        bare = {_bare(text): state for text, state in options.items()}
        if bare.get("") is not None and len(bare) == 1:
            self._go(bare[""])
            return
        self._expected = _Expected(bare)
        self._state = "fixed"

    def _go(self, state: str) -> None:
        family = self.family
        self._state = state
        match state:
            case "name":
                self._name = ""
            case "arguments":
                self._arguments = _Arguments()
            case "next":
                more = {family.between + family.before: "name"}
                self._expect({**more, family.closing: "text"} if family.closing else more)

    def _read_section(self, text: str) -> str:
        """Read until the state is text again or the text is over; what is left of it."""
        for at, c in enumerate(text):
            if self._state == "text":
                return text[at:]
            if not self._take(c):
                return text[at:]  # not of a call: text from here on
        return ""

    def _take(self, c: str) -> bool:
        match self._state:
            case "name":
                return self._take_name(c)
            case "arguments":
                return self._take_arguments(c)
            case "skipped":
                return self._take_skipped(c)
            case _:
                return self._take_fixed(c)

    def _take_fixed(self, c: str) -> bool:
        expected = self._expected
        expected.raw += c
        if c.isspace():
            return True
        seen = expected.seen + c
        if not any(text.startswith(seen) for text in expected.options):
            if seen == "," and "}" in [text[:1] for text in expected.options]:
                # Mistral's `"id"` and whatever else follows the arguments in the same object.
                self._state = "skipped"
                self._arguments = _Arguments()
                self._arguments.ends("{")
                return True
            self._state = "text"
            if not self.family.opening:  # else it could hold a marker
                self._held = expected.raw[:-1]
            return False
        expected.seen = seen
        if seen in expected.options:
            self._go(expected.options[seen])
        return True

    def _take_skipped(self, c: str) -> bool:
        if self._arguments.ends(c):
            self._state = "fixed"
            return self._take_fixed("}")
        return True

    def _take_name(self, c: str) -> bool:
        if c in _NAME:
            self._name += c
            return True
        if not self._name:
            if c.isspace():
                return True
            self._state = "text"
            return False
        self._out.append(ToolCallDelta(index=self.calls, id=self.family.call_id(), name=self._name))
        self.calls += 1
        self._expect({self.family.middle: "arguments"})
        return self._take(c)

    def _take_arguments(self, c: str) -> bool:
        if not self._piece and self._arguments_unbegun and c != "{":
            if c.isspace():
                return True
            self._state = "text"
            return False
        self._piece += c
        if self._arguments.ends(c):
            self._flush_piece()
            self.whole += 1
            self._expect({self.family.after: "next"})
        return True

    @property
    def _arguments_unbegun(self) -> bool:
        return self._arguments._depth == 0

    def _flush_piece(self) -> None:
        if self._piece:
            self._out.append(ToolCallDelta(index=self.calls - 1, arguments=self._piece))
            self._piece = ""
