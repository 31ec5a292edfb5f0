"""How one family of models writes tool calls: the pieces of text around names and arguments.

A section of calls is

    opening CALL { between CALL } closing,    a CALL being    before NAME middle ARGUMENTS after

and begins either with `marker`, wherever it comes in an answer, or, for a family whose calls are
`bare`, with an answer's first character. What the grammar enforces (calls.py) and what the parser
reads (parser.py) both follow from these pieces, so that they cannot disagree.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One format. Names hold no whitespace, quote, bracket or backtick, and so end by themselves.

    `native`: the model's own template renders tools and their results. `parallel`: an answer may
    hold several calls.
    """

    name: str
    before: str
    middle: str
    after: str
    opening: str = ""
    between: str = ""
    closing: str = ""
    marker: str = ""
    bare: bool = False
    native: bool = True
    parallel: bool = True

    def fits(self, template: str) -> bool:
        """Whether a chat template is of this family."""
        return bool(self.marker) and self.marker in template

    def call_id(self) -> str:
        """An id for a new call."""
        return "call_" + secrets.token_hex(12)

    def messages(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Message]:
        """A conversation as the family's templates expect it."""
        return list(messages)
