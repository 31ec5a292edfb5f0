"""Names that load on demand: a table of "module:Class" strings, resolved when chosen."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any


class UnknownName(LookupError):
    """A name that its table does not list. The message lists what it does."""


def load(table: Mapping[str, str], name: str, *, what: str) -> Any:
    """Return the object that `table[name]` points to, importing its module now.

    Raises UnknownName if the table has no such name, ImportError if its module cannot load.
    """
    try:
        target = table[name]
    except KeyError:
        raise UnknownName(f"unknown {what} {name!r}{suggest(name, table)}") from None
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def suggest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The tail of an error sentence: the likely spelling, or the whole list if it is short."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= 24 else ""
