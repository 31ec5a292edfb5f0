"""Llama 3: a JSON object as the whole answer, perhaps after `<|python_tag|>`; one call only."""

from __future__ import annotations

from backends.engine.tools.base import Family


class _Llama3(Family):
    def fits(self, template: str) -> bool:
        return "<|start_header_id|>" in template and '"parameters"' in template


LLAMA3 = _Llama3(
    name="llama3",
    marker="<|python_tag|>",
    bare=True,
    before='{"name": "',
    middle='", "parameters": ',
    after="}",
    parallel=False,
)
