"""The grammar of an answer with tools: text, or calls whose arguments fit their schemas.

Text runs through a small automaton that knows how much of a marker has been written, so that the
marker cannot be completed without a call following it: the grammar is on from the first token, and
is as free as plain text until then. It is deterministic, so it costs one state a character.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.engine.gbnf import EMPTY, Chars, Lit, Node, Ref, Rep, alt, seq
from backends.engine.grammar import Converter
from backends.engine.tools.base import Family

_BLANK = " \n\t\r"
_OUT = -1  # text has begun, so no bare call can any more


def section(
    family: Family,
    converter: Converter,
    arguments: Mapping[str, Node],
    *,
    several: bool,
    written: str = "",
) -> Node:
    """Calls of the functions in `arguments`; `written` of the section is there already."""
    named: list[Node] = [
        seq(Lit(name + family.middle), node, Lit(family.after)) for name, node in arguments.items()
    ]
    call = converter.rules.share(alt(named))
    start = family.opening + family.before
    assert start.startswith(written)
    more: Node = EMPTY
    if several and family.parallel:
        more = Rep(seq(Lit(family.between + family.before), call))
    return seq(Lit(start[len(written) :]), call, more, Lit(family.closing))


def text_or_calls(
    family: Family, converter: Converter, arguments: Mapping[str, Node], *, several: bool
) -> Node:
    """Any text without the family's marker, or such text and then calls."""
    begun = family.marker if not family.bare else ""
    after_marker = section(family, converter, arguments, several=several, written=begun)
    lead = family.before[:1] if family.bare else ""
    after_lead = section(family, converter, arguments, several=several, written=lead)
    rules = converter.rules
    ends = {"marker": rules.share(after_marker), "lead": rules.share(after_lead)}
    names: dict[tuple[int, int], Ref] = {}

    def state(matched: int, led: int) -> Node:
        if (matched, led) in names:
            return names[matched, led]
        names[matched, led] = here = Ref(rules.reserve())
        alphabet = sorted({*family.marker, *(lead if led != _OUT else ""), *_BLANK})
        choices: list[Node] = [seq(Lit(c), step(matched, led, c)) for c in alphabet]
        others = Chars(tuple((ord(c), ord(c)) for c in alphabet), negated=True)
        choices += [seq(others, state(0, _OUT)), EMPTY]
        rules.put(here.name, alt(choices))
        return here

    def step(matched: int, led: int, c: str) -> Node:
        matched = _matched(family.marker, matched, c)
        if family.marker and matched == len(family.marker):
            return ends["marker"]
        if lead and led != _OUT:
            if c == lead:
                return ends["lead"]
            led = led if c in _BLANK else _OUT
        return state(matched, led)

    return state(0, 0 if lead else _OUT)


def _matched(marker: str, matched: int, c: str) -> int:
    """How much of the marker the text ends with, once `c` is added to `matched` of it."""
    seen = marker[:matched] + c
    return next((n for n in range(len(seen), 0, -1) if marker.startswith(seen[-n:])), 0)


def arguments_of(
    converter: Converter, tools: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Node]:
    """Each function's arguments, by name. Raises SchemaRefused with the path in `tools`."""
    found: dict[str, Node] = {}
    for at, tool in enumerate(tools):
        function = tool["function"]
        if function["name"] not in names:
            continue
        schema = function.get("parameters")
        path = f"tools[{at}].function.parameters"
        if schema is None:
            found[function["name"]] = Lit("{}")
        else:
            found[function["name"]] = converter.rules.share(
                converter.schema({"type": "object", **schema}, path)
            )
    return found
