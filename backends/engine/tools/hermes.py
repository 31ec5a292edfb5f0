"""Hermes, Qwen and the bundled pair: one JSON object in `<tool_call>` tags for each call."""

from __future__ import annotations

from backends.engine.tools.base import Family

HERMES = Family(
    name="hermes",
    marker="<tool_call>",
    before='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    after="}\n</tool_call>",
    between="\n",
)
