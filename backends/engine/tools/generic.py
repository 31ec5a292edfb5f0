"""For models whose template knows no tools: told in words, answered in JSON that is forced.

An answer that begins with a brace is a call; any other is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backends.engine.tools.base import Family, Message

_INTRODUCTION = """You can call these functions:
{tools}
To call one, answer only with {{"name": ..., "arguments": {{...}}}}; to call several,
one on each line. Otherwise answer in plain text."""


class _Generic(Family):
    def fits(self, template: str) -> bool:
        return True

    def messages(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Message]:
        """Calls and results become ordinary turns, and the tools a system message."""
        turns = [_plain(message) for message in messages]
        if not tools:
            return turns
        described = "\n".join(_dump(tool.get("function", tool)) for tool in tools)
        told = _INTRODUCTION.format(tools=described)
        if turns and turns[0]["role"] == "system":
            first = {"role": "system", "content": f"{turns[0]['content']}\n\n{told}"}
            return [first, *turns[1:]]
        return [{"role": "system", "content": told}, *turns]


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        name = message.get("name") or message.get("tool_call_id") or "the function"
        return {"role": "user", "content": f"Result of {name}: {message['content']}"}
    calls = [
        _dump(
            {
                "name": call["function"].get("name"),
                "arguments": call["function"].get("arguments"),
            }
        )
        for call in message.get("tool_calls") or ()
    ]
    if not calls:
        return message
    content = "\n".join([message["content"], *calls] if message["content"] else calls)
    return {"role": message["role"], "content": content}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


GENERIC = _Generic(
    name="generic",
    bare=True,
    native=False,
    before='{"name": "',
    middle='", "arguments": ',
    after="}",
    between="\n",
)
