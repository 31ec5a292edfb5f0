"""One text against the patterns, in pieces, so that no single step is long. Pure; runs in a thread.

A pattern sees bytes: ASCII as it is, other characters in their compatibility form (a full-width
digit is a digit), the escapes of JSON inside JSON undone, invisible characters gone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import re2

from gateway.detect.patterns import OVERLAP, Pattern

PIECE = 128 * 1024

_PLAIN = {
    "": "\u00ad\u200b\u200c\u200d\u2060\ufeff",
    " ": "\u00a0\u2007\u2009\u202f",
    "-": "\u2010\u2011\u2012\u2013\u2212",
}
"""Invisible, blanks and dashes: what people paste between the digits of a number."""
_REPLACED = [(each.encode(), plain.encode()) for plain, others in _PLAIN.items() for each in others]
_ESCAPED = re2.compile(r"\\u00([2-7][0-9A-Fa-f])")


def _bytes_pattern(pattern: bytes) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern, options)


_FOLDED = (
    # Full-width forms, mathematical letters, raised, lowered and circled digits, in UTF-8.
    rb"\xef[\xbc\xbd]|\xf0\x9d[\x90-\x9f]|\xe2\x81[\xb0-\xb9]|\xe2\x82[\x80-\x89]"
    rb"|\xe2\x91|\xe3\x80\x80"
)
_FOLDABLE = _bytes_pattern(_FOLDED)
_SPECIAL = _bytes_pattern(b"|".join([_FOLDED, *(each for each, _ in _REPLACED)]))


class Stopped(Exception):
    """Nobody waits for this scan any more."""


def scan(
    text: str,
    patterns: Mapping[str, tuple[Pattern, ...]],
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[str, ...]:
    """The kinds that the text has. Raises Stopped between two pieces if `stopped` says so."""
    data = prepared(text)
    found: list[str] = []
    left = dict(patterns)
    for start in range(0, max(len(data), 1), PIECE):
        if stopped():
            raise Stopped
        piece = data if len(data) <= PIECE else data[max(0, start - OVERLAP) : start + PIECE]
        for kind, each in list(left.items()):
            if any(pattern.found(piece) for pattern in each):
                found.append(kind)
                del left[kind]
        if not left:
            break
    return tuple(found)


def prepared(text: str) -> bytes:
    """A text as patterns see it."""
    if "\\" in text:
        # A tool's arguments are JSON inside JSON: `\n` there is a line's end, and no letter n.
        text = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
        text = text.replace('\\"', '"').replace("\\/", "/")
        if "\\u00" in text:
            text = _ESCAPED.sub(lambda match: chr(int(match.group(1), 16)), text)
    if text.isascii():
        return text.encode()
    data = text.encode("utf-8", "replace")
    if _SPECIAL.search(data) is None:
        return data  # what follows takes longer than all patterns together
    if _FOLDABLE.search(data) is not None:
        data = unicodedata.normalize("NFKC", text).encode("utf-8", "replace")
    for each, plain in _REPLACED:
        data = data.replace(each, plain)
    return data
