"""DeepSeek V3 and R1: calls between tokens of their own, the arguments in a fenced block.

V3.1 left out the word `function` and the fence.
"""

from __future__ import annotations

from backends.engine.tools.base import Family

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class _Fenced(Family):
    def fits(self, template: str) -> bool:
        return self.marker in template and "```json" in template


DEEPSEEK = _Fenced(
    name="deepseek",
    marker=_BEGIN,
    opening=_BEGIN,
    before=f"{_CALL}function{_SEP}",
    middle="\n```json\n",
    after=f"\n```{_CALL_END}",
    between="\n",
    closing=_END,
)
DEEPSEEK_V31 = Family(
    name="deepseek-v3.1",
    marker=_BEGIN,
    opening=_BEGIN,
    before=_CALL,
    middle=_SEP,
    after=_CALL_END,
    closing=_END,
)
