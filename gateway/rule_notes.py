"""Rules that can never match, because no key has the tenant or the digest that they ask for.

Not mistakes: a tenant's last key may be revoked before its rules are. But a typo in a `locality:`
rule's team is a wall that is not there, so it is said aloud.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.core.exchange import Caller
from router_policies.base import Condition, Rule
from router_policies.conditions import AllOf, Test

NOBODY = Caller()


def rule_notes(rules: Iterable[Rule], callers: Mapping[str, Caller]) -> list[str]:
    """A sentence for each such rule. Without keys everyone is the default caller."""
    known = list(callers.values()) or [NOBODY]
    has = {"tenant": {each.tenant for each in known}, "key_id": {each.key_id for each in known}}
    return [
        f"rule {rule.name}: never matches, no key has the {test.fact} {test.value!r}"
        for rule in rules
        for test in _demanded(rule.when)
        if test.fact in has and test.operator == "eq" and test.value not in has[test.fact]
    ]


def _demanded(condition: Condition) -> Iterator[Test]:
    """The tests without which the condition cannot hold."""
    if isinstance(condition, Test):
        yield condition
    elif isinstance(condition, AllOf):
        for part in condition.parts:
            yield from _demanded(part)
