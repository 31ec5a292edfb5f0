"""The contract of a routing policy: facts and candidates in, a Route out.

To add a policy: one module with a class that has these members, one line in `POLICIES`. A policy is
pure: no I/O, no log, no clock, no state between calls. Whatever it must know arrives as a fact
(router_policies/facts.py lists them all). It ranks what it is given and can bring nothing back:
zones, abilities, context and health have removed candidates before it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gateway.core.routing import Candidate, Facts, Route


@runtime_checkable
class Policy(Protocol):
    """One way to choose."""

    name: str

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        """Order the candidates, best first, or return None to leave it to the next policy.

        `candidates` is never empty and keeps the alias's own order. The Route holds a subset of
        them and at least one.
        """
