"""Numbers between bounds as grammar: decimal digits, most significant first.

Numbers without bounds are limited to digits that every JSON reader keeps: 15 before the point and
15 after it. A bound on one side only is completed with such a limit: narrower, never wider.
"""

from __future__ import annotations

from backends.engine.gbnf import Chars, Lit, Node, Rep, alt, chars, optional, seq

LARGEST = 10**15 - 1

_DIGIT = chars("0-9")
_NONZERO = chars("1-9")
_WHOLE = alt([Lit("0"), seq(_NONZERO, Rep(_DIGIT, 0, 14))])
_FRACTION = seq(Lit("."), Rep(_DIGIT, 1, 15))
_MORE_THAN_ZERO = seq(Lit("."), Rep(_DIGIT, 0, 14), _NONZERO)
_EXPONENT = seq(chars("eE"), optional(chars("-+")), chars("0-9"), optional(chars("0-9")))

INTEGER: Node = seq(optional(Lit("-")), _WHOLE)
NUMBER: Node = seq(optional(Lit("-")), _WHOLE, optional(_FRACTION), optional(_EXPONENT))


def integers(low: int | None, high: int | None) -> Node | None:
    """Whole numbers from `low` to `high`, both included; None if there are none."""
    if low is None and high is None:
        return INTEGER
    low = -LARGEST if low is None else low
    high = LARGEST if high is None else high
    if low > high:
        return None
    choices: list[Node] = []
    if low < 0:
        choices.append(seq(Lit("-"), _span(max(1, -high), -low)))
    if high >= 0:
        choices.append(_span(max(0, low), high))
    return alt(choices)


def reals(
    low: int | None, high: int | None, *, above_low: bool = False, below_high: bool = False
) -> Node | None:
    """Numbers from `low` to `high`; `above_low` and `below_high`: the bound itself is out.

    None if there are none. Written without exponents once there is a bound.
    """
    if low is None and high is None:
        return NUMBER
    low = -LARGEST if low is None else low
    high = LARGEST if high is None else high
    if low > high or (low == high and (above_low or below_high)):
        return None
    choices: list[Node] = []
    if low < 0:
        top = min(high, 0)
        positive = _magnitudes(
            -top, -low, above_low=below_high and top == high, below_high=above_low
        )
        choices += [seq(Lit("-"), node) for node in positive]
    if high >= 0:
        bottom = max(low, 0)
        choices += _magnitudes(
            bottom, high, above_low=above_low and bottom == low, below_high=below_high
        )
    return alt(choices) if choices else None


def _magnitudes(low: int, high: int, *, above_low: bool, below_high: bool) -> list[Node]:
    """Numbers of no sign, 0 <= low <= high."""
    choices: list[Node] = []
    if not (low == high and (above_low or below_high)) and not below_high:
        choices.append(seq(_span(high, high), optional(Lit(".0"))))
    if low < high:
        if above_low:
            choices.append(seq(_span(low, low), _MORE_THAN_ZERO))
            low += 1
        if low < high:
            choices.append(seq(_span(low, high - 1), optional(_FRACTION)))
    return choices


def _span(low: int, high: int) -> Node:
    """Decimal numbers from low to high, 0 <= low <= high, without leading zeros."""
    choices: list[Node] = []
    while low <= high:
        digits = len(str(low))
        top = min(high, 10**digits - 1)
        choices.append(_same_length(str(low), str(top)))
        low = top + 1
    return alt(choices)


def _same_length(low: str, high: str) -> Node:
    """All digit strings between two of one length."""
    if low == high:
        return Lit(low)
    first, last = low[0], high[0]
    if len(low) == 1:
        return _digits(first, last)
    if first == last:
        return seq(Lit(first), _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    choices: list[Node] = []
    if low[1:] != "0" * rest:
        choices.append(seq(Lit(first), _same_length(low[1:], "9" * rest)))
        first = chr(ord(first) + 1)
    ends_full = high[1:] == "9" * rest
    between = last if ends_full else chr(ord(last) - 1)
    if first <= between:
        choices.append(seq(_digits(first, between), Rep(_DIGIT, rest, rest)))
    if not ends_full:
        choices.append(seq(Lit(last), _same_length("0" * rest, high[1:])))
    return alt(choices)


def _digits(first: str, last: str) -> Node:
    return Lit(first) if first == last else Chars(((ord(first), ord(last)),))
