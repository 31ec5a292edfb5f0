"""Rules that no key's request can match are noticed."""

from __future__ import annotations

import pytest

from gateway.config import loads
from gateway.rule_notes import rule_notes

DIGEST = "5f0c6a1d" + "0" * 56
YAML = """
upstreams: {near: {kind: openai, base_url: "http://127.0.0.1:9/v1", model: a, profile: generic}}
keys: [{digest: "sha256:%s", tenant: web}]
rules: [{name: wall, locality: machine, %s}]
"""


@pytest.mark.parametrize(
    ("scope", "notes"),
    [
        ("team: web", []),
        ('key: "5f0c6a1d"', []),
        ("when: {any: [{tenant: wbe}, {stream: true}]}", []),
        ("when: {tenant: {prefix: w}}", []),
        ("when: {not: {tenant: wbe}}", []),
        ("team: wbe", ["rule wall: never matches, no key has the tenant 'wbe'"]),
        ("when: {tenant: wbe}", ["rule wall: never matches, no key has the tenant 'wbe'"]),
        (
            'key: "5f0c6a1e", when: {all: [{stream: true}]}',
            ["rule wall: never matches, no key has the key_id '5f0c6a1e'"],
        ),
    ],
)
def test_a_scope_that_nobody_has_is_noticed(scope: str, notes: list[str]) -> None:
    """A team or key that the list of keys does not have is told; what may match otherwise is
    not."""
    config = loads(YAML % (DIGEST, scope), env={})
    assert rule_notes(config.rules, config.callers) == notes


def test_without_keys_everyone_is_the_default() -> None:
    """Then only the tenant `default` can match."""
    for team, count in (("default", 0), ("web", 1)):
        text = YAML.replace('keys: [{digest: "sha256:%s", tenant: web}]', "keys: []")
        config = loads(text % f"team: {team}", env={})
        assert len(rule_notes(config.rules, config.callers)) == count
