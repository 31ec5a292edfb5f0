"""`when:` compiled: a typed matcher over facts, checked at load, never raising at a request.

    when:
      all: [{has_tools: true}, {prompt_tokens: {gt: 6000}}]
      not: {header.x-team: {in: [radiology, hr]}}

Keys side by side must all hold. A scalar stands for `eq`. A fact that a request does not have makes
every comparison false, `ne` included; only `exists` sees the difference. Wrap it in `not` to
include requests without it. Text is compared as it is, with case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

import re2

from gateway.core.flaw import Flaw, Path
from gateway.core.registry import suggest
from gateway.core.routing import Facts
from router_policies.base import Condition
from router_policies.facts import FACTS, HEADER, SECRET_HEADERS, Fact, Kind, find

MAX_PATTERN = 512
"""Characters of a regex or glob. re2 is linear in its input, not in its program."""
MAX_DEPTH = 16

ORDER = ("lt", "lte", "gt", "gte")
OPERATORS: Mapping[Kind, tuple[str, ...]] = {
    Kind.TEXT: ("eq", "ne", "in", "contains", "prefix", "glob", "regex", "exists"),
    Kind.NUMBER: ("eq", "ne", *ORDER, "in", "exists"),
    Kind.FLAG: ("eq", "ne", "exists"),
}
ALL_OPERATORS = sorted({name for names in OPERATORS.values() for name in names})
COMBINATORS = ("all", "any", "not")

Check: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; with no parts, always."""

    parts: tuple[Condition, ...]

    def matches(self, facts: Facts) -> bool:
        return all(part.matches(facts) for part in self.parts)

    def names(self) -> frozenset[str]:
        return frozenset().union(*(part.names() for part in self.parts))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def matches(self, facts: Facts) -> bool:
        return any(part.matches(facts) for part in self.parts)

    def names(self) -> frozenset[str]:
        return frozenset().union(*(part.names() for part in self.parts))


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition

    def matches(self, facts: Facts) -> bool:
        return not self.part.matches(facts)

    def names(self) -> frozenset[str]:
        return self.part.names()


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison of one fact. `check` is the operator and its value, compiled."""

    fact: str
    operator: str
    value: Any
    check: Check = field(compare=False, repr=False)

    def matches(self, facts: Facts) -> bool:
        return self.check(facts.get(self.fact))

    def names(self) -> frozenset[str]:
        return frozenset({self.fact})


ALWAYS = AllOf(())


def compile_condition(raw: object, path: Path, flaws: list[Flaw], depth: int = 0) -> Condition:
    """The condition that `raw` describes. Adds what is wrong with it to `flaws`.

    With flaws the result is only a placeholder; the caller refuses the configuration.
    """
    if not isinstance(raw, Mapping) or not raw:
        flaws.append(Flaw(path, "a condition is a mapping of facts, or of all, any, not"))
        return ALWAYS
    if depth > MAX_DEPTH:
        flaws.append(Flaw(path, f"conditions nest at most {MAX_DEPTH} deep"))
        return ALWAYS
    parts: list[Condition] = []
    for key, value in raw.items():
        here = (*path, key)
        if key == "not":
            parts.append(Not(compile_condition(value, here, flaws, depth + 1)))
        elif key in ("all", "any"):
            inner = _compile_list(value, here, flaws, depth + 1)
            parts.append(AllOf(inner) if key == "all" else AnyOf(inner))
        else:
            parts += _compile_fact(key, value, here, flaws)
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _compile_list(raw: object, path: Path, flaws: list[Flaw], depth: int) -> tuple[Condition, ...]:
    if not isinstance(raw, list | tuple) or not raw:
        flaws.append(Flaw(path, "expects a list of conditions, at least one"))
        return ()
    return tuple(
        compile_condition(each, (*path, index), flaws, depth) for index, each in enumerate(raw)
    )


def _compile_fact(key: object, raw: object, path: Path, flaws: list[Flaw]) -> list[Condition]:
    name = key.lower() if isinstance(key, str) and key.lower().startswith(HEADER) else key
    fact = find(name) if isinstance(name, str) else None
    if fact is None or not isinstance(name, str):
        hint = suggest(str(key), [*FACTS, *COMBINATORS, HEADER + "<name>"])
        flaws.append(Flaw(path, f"unknown fact {key!r}{hint}", at_key=True))
        return []
    if name.removeprefix(HEADER) in SECRET_HEADERS:
        message = f"{name} carries a credential; match on tenant or key_id instead"
        flaws.append(Flaw(path, message, at_key=True))
        return []
    if not isinstance(raw, Mapping):
        return _compile_test(name, fact, "eq", raw, path, flaws)
    if not raw:
        flaws.append(Flaw(path, f"expects a value, or one of {', '.join(OPERATORS[fact.kind])}"))
    tests: list[Condition] = []
    for operator, value in raw.items():
        tests += _compile_test(name, fact, operator, value, (*path, operator), flaws)
    return tests


def _compile_test(
    name: str, fact: Fact, operator: object, value: object, path: Path, flaws: list[Flaw]
) -> list[Condition]:
    allowed = OPERATORS[fact.kind]
    if operator not in ALL_OPERATORS:
        hint = suggest(str(operator), list(allowed))
        flaws.append(Flaw(path, f"unknown operator {operator!r}{hint}", at_key=True))
        return []
    if operator not in allowed:
        message = f"{operator} does not apply to {name}, which is {fact.kind}"
        flaws.append(Flaw(path, f"{message}; use {', '.join(allowed)}", at_key=True))
        return []
    wrong = _wrong_value(name, fact, str(operator), value)
    if wrong:
        flaws.append(Flaw(path, wrong))
        return []
    try:
        check = _check(fact.kind, str(operator), value)
    except re2.error as error:
        flaws.append(Flaw(path, f"not a regular expression that re2 accepts: {_reason(error)}"))
        return []
    return [Test(name, str(operator), _frozen(value), check)]


def _wrong_value(name: str, fact: Fact, operator: str, value: object) -> str | None:
    if operator == "exists":
        return None if isinstance(value, bool) else "exists expects true or false"
    if operator == "in":
        if not isinstance(value, list | tuple) or not value:
            return "in expects a list of values, at least one"
        return next((why for each in value if (why := _wrong_scalar(name, fact, each))), None)
    if operator in ("glob", "regex") and isinstance(value, str) and len(value) > MAX_PATTERN:
        return f"a pattern has at most {MAX_PATTERN} characters, this one has {len(value)}"
    exact = operator in ("eq", "ne")
    return _wrong_scalar(name, fact, value, closed=exact)


def _wrong_scalar(name: str, fact: Fact, value: object, closed: bool = True) -> str | None:
    match fact.kind:
        case Kind.FLAG:
            return None if isinstance(value, bool) else f"{name} is true or false"
        case Kind.NUMBER:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or (isinstance(value, float) and not isfinite(value)):
                return f"{name} is compared with a number"
            return None
        case Kind.TEXT:
            if not isinstance(value, str):
                quoted = f'; write "{value}" in quotes' if isinstance(value, int | float) else ""
                return f"{name} is compared with text{quoted}"
            if closed and fact.choices and value not in fact.choices:
                return f"{name} is never {value!r}{suggest(value, list(fact.choices))}"
            return None


def _check(kind: Kind, operator: str, wanted: Any) -> Check:
    """The operator with its value bound. A fact of another type, or none, is no match."""
    if operator == "exists":
        return lambda value: (value is not None) is wanted
    if kind is Kind.FLAG:
        return {
            "eq": lambda value: isinstance(value, bool) and value is wanted,
            "ne": lambda value: isinstance(value, bool) and value is not wanted,
        }[operator]
    if kind is Kind.NUMBER:
        return _number_check(operator, wanted)
    return _text_check(operator, wanted)


def _number_check(operator: str, wanted: Any) -> Check:
    if operator == "in":
        members = frozenset(wanted)
        return lambda value: isinstance(value, int | float) and value in members
    compare: dict[str, Check] = {
        "eq": lambda value: bool(value == wanted),
        "ne": lambda value: bool(value != wanted),
        "lt": lambda value: bool(value < wanted),
        "lte": lambda value: bool(value <= wanted),
        "gt": lambda value: bool(value > wanted),
        "gte": lambda value: bool(value >= wanted),
    }
    holds = compare[operator]
    return lambda value: isinstance(value, int | float) and holds(value)


def _text_check(operator: str, wanted: Any) -> Check:
    if operator == "in":
        members = frozenset(wanted)
        return lambda value: isinstance(value, str) and value in members
    if operator in ("glob", "regex"):
        pattern = _compile_pattern(_glob(wanted) if operator == "glob" else wanted)
        # Bytes, because re2's Python face cannot encode a lone surrogate and would raise.
        return lambda value: (
            isinstance(value, str) and pattern.search(value.encode("utf-8", "replace")) is not None
        )
    compare: dict[str, Check] = {
        "eq": lambda value: bool(value == wanted),
        "ne": lambda value: bool(value != wanted),
        "contains": lambda value: wanted in value,
        "prefix": lambda value: bool(value.startswith(wanted)),
    }
    holds = compare[operator]
    return lambda value: isinstance(value, str) and holds(value)


def _compile_pattern(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern.encode("utf-8", "replace"), options)


def _glob(pattern: str) -> str:
    """`*` is any run of characters, `?` any one; the whole text must match."""
    parts = {"*": ".*", "?": "."}
    return r"(?s)\A" + "".join(parts.get(each) or re2.escape(each) for each in pattern) + r"\z"


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
