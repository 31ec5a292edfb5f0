"""A prompt as 41 numbers that cost microseconds: its shape, its characters, its telling words.

The list is closed and ordered; its digest is part of every artifact, so that trees never read a
number that means something else. Counts enter as log(1 + n), shares as they are.
"""

from __future__ import annotations

import hashlib
import re
from math import log1p

import numpy as np
from numpy.typing import NDArray

OTHER, LOWER, UPPER, DIGIT, SPACE, NEWLINE, PERIOD, COMMA = range(8)
QUESTION, QUOTE, PARENTHESIS, BRACKET, SIGN, DOLLAR, BACKSLASH, COLON = range(8, 16)
UNDERSCORE, WIDE, CLASSES = 16, 17, 18

MARKERS: dict[str, frozenset[str]] = {
    name: frozenset(text.split())
    for name, text in {
        "asks": "what which who whom whose when where why how",
        "negates": "not no never except false incorrect least cannot without neither nor untrue",
        "function": "the of to and a in is that it for as with was on be by an are at from",
        "quantity": "many much total each every per more less times half twice average remaining "
        "left altogether percent rate cost price dollars hours minutes days miles",
        "maths": "let find integer integers polynomial equation triangle angle function matrix sum "
        "value values prime probability theorem derivative integral vector group ring frac sqrt "
        "mathbb equals positive real solve compute evaluate",
        "code": "def return import print list string python write code array output int str self "
        "class loop program algorithm json sql query html javascript bash",
        "reasons": "if then therefore because assume suppose given hence however although since",
        "judges": "best likely correct true statement statements following most wrong should main",
        "law": "court defendant plaintiff law contract state murder crime property statute liable "
        "jurisdiction constitutional",
        "medicine": "patient disease treatment blood symptoms year old history examination "
        "diagnosis cells clinical pain",
        "science": "energy force mass temperature velocity pressure acid reaction solution "
        "electron charge wave gas atom water density",
        "personal": "i you my your me we our he she his her",
    }.items()
}
NAMES: tuple[str, ...] = (
    "characters", "words", "word_length", "distinct_words", "lines", "long_words", "digit_share",
    "upper_share", "space_share", "wide_share", "sign_share", "punctuation_share", "questions",
    "periods", "commas", "quotes", "parentheses", "brackets", "dollars", "backslashes", "colons",
    "underscores", "numbers", "largest_number", "options", "stem_words", "option_words",
    "numeric_options", "first_word_asks", *MARKERS,
)  # fmt: skip
DIGEST = hashlib.sha256("\n".join(NAMES).encode()).hexdigest()
"""Changes whenever the list does."""

OPTION = re.compile(r"\n[ \t]*\(?[A-J][.)][ \t]*")
LARGEST = 12
"""Digits of a number beyond which larger makes no difference."""
_LOG10 = 2.302585092994046


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for code in range(256):
        char = chr(code)
        if code >= 128:
            table[code] = WIDE
        elif char.islower():
            table[code] = LOWER
        elif char.isupper():
            table[code] = UPPER
        elif char.isdigit():
            table[code] = DIGIT
    for number, chars in {
        SPACE: " \t", NEWLINE: "\n\r", PERIOD: ".!", COMMA: ",", QUESTION: "?", QUOTE: "\"'`",
        PARENTHESIS: "()", BRACKET: "[]{}", SIGN: "+-*/=<>^%|~&", DOLLAR: "$", BACKSLASH: "\\",
        COLON: ":;", UNDERSCORE: "_",
    }.items():  # fmt: skip
        for char in chars:
            table[ord(char)] = number
    return table


_CLASS_OF = _classes()
_MARKERS = tuple(MARKERS.values())
_ASKS = MARKERS["asks"]


def features(text: str, words: list[str]) -> list[float]:
    """The numbers called `NAMES`, of a text and its `text.words`. Never raises for a str."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    count = np.bincount(_CLASS_OF[data], minlength=CLASSES).tolist()
    size = max(1, len(data))
    total = max(1, len(words))
    distinct = set(words)
    letters = count[LOWER] + count[UPPER]
    pieces = OPTION.split(text) if "\nA" in text or "\n(A" in text or "\n A" in text else [text]
    stem, options = pieces[0], pieces[1:]
    numbers = [word for word in words if word[0] <= "9"]
    largest = max(numbers, key=len, default="")
    numeric = sum(option[:1] in _NUMERIC for option in options)
    punctuation = size - letters - count[DIGIT] - count[SPACE] - count[NEWLINE] - count[WIDE]
    values = [
        log1p(size),
        log1p(len(words)),
        letters / total,
        len(distinct) / total,
        log1p(count[NEWLINE]),
        sum(len(word) > 8 for word in words) / total,
        count[DIGIT] / size,
        count[UPPER] / size,
        count[SPACE] / size,
        count[WIDE] / size,
        count[SIGN] / size,
        punctuation / size,
        log1p(count[QUESTION]),
        log1p(count[PERIOD]),
        log1p(count[COMMA]),
        log1p(count[QUOTE]),
        log1p(count[PARENTHESIS]),
        log1p(count[BRACKET]),
        log1p(count[DOLLAR]),
        log1p(count[BACKSLASH]),
        log1p(count[COLON]),
        log1p(count[UNDERSCORE]),
        log1p(len(numbers)),
        log1p(float(largest[:LARGEST])) if largest else 0.0,
        log1p(len(options)),
        log1p(stem.count(" ")),
        log1p(sum(map(len, options)) / len(options)) if options else 0.0,
        numeric / len(options) if options else 0.0,
        float(words[0] in _ASKS) if words else 0.0,
    ]
    values += [log1p(len(distinct & marker)) for marker in _MARKERS]
    return values


_NUMERIC = frozenset("0123456789$-")
