"""Tools and their results on the way into a prompt, by each family's kind of template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.engine.conversation import malformed, turn, with_arguments
from backends.engine.prompts import Prompts
from gateway.core.errors import InvalidRequest
from tests.fakes.gguf import write_vocabulary

pytestmark = pytest.mark.usefixtures("llama_cpp")

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "D", "parameters": {"type": "object"}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "go"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "call_1"},
]
QWEN = (
    "{% if tools %}[{% for t in tools %}{{ t | tojson }}{% endfor %}]{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>"
    "{% endfor %};{% endfor %}"
)
DEEPSEEK = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}"
    "{{ '<｜tool▁calls▁begin｜>```json' + m.tool_calls[0]['function']['arguments'] }}"
    "{% endif %};{% endfor %}{{ tools | length if tools else '' }}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.tool_call_id is defined and m.tool_call_id|length != 9 %}"
    "{{ raise_exception('nine') }}{% endif %}{{ m.role }}{% for c in m.tool_calls or [] %}"
    "[TOOL_CALLS]{{ c.id | length }}{{ c.function | tojson }}{% endfor %};{% endfor %}{{ tools }}"
)
PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


@asynccontextmanager
async def helper(tmp_path: Path, template: str, **more: Any) -> AsyncIterator[Prompts]:
    path = write_vocabulary(tmp_path / "v.gguf", template=template, **more)
    prompts = Prompts(path, limit_s=5.0)
    try:
        await prompts.start()
        yield prompts
    finally:
        await prompts.aclose()


def rendered(tmp_path: Path, template: str, turns: list[dict[str, Any]], *tools: Any) -> str:
    async def main() -> str:
        async with helper(tmp_path, template) as prompts:
            ids = await prompts.chat(turns, tools)
            return bytes(id - 7 for id in ids if 7 <= id < 263).decode()

    return asyncio.run(main())


def test_arguments_become_objects_where_they_are_dumped(tmp_path: Path) -> None:
    """A template that dumps arguments gets an object, so that they are JSON once, not twice."""
    text = rendered(tmp_path, QWEN, TURNS, TOOL)
    assert '<tool_call>f {"a": "é"}</tool_call>' in text
    assert text.startswith('[{"type": "function"')
    assert text.endswith("tool:42;")


def test_arguments_stay_strings_where_they_are_joined(tmp_path: Path) -> None:
    """A template that joins arguments to text gets the string."""
    assert '```json{"a": "é"};tool:42;1' in rendered(tmp_path, DEEPSEEK, TURNS, TOOL)


def test_foreign_ids_fit_mistral(tmp_path: Path) -> None:
    """A conversation begun elsewhere goes on: its ids are made to fit."""
    text = rendered(tmp_path, MISTRAL, TURNS, TOOL)
    assert '[TOOL_CALLS]9{"name": "f", "arguments": {"a": "é"}}' in text


def test_a_template_without_tools_is_told_in_words(tmp_path: Path) -> None:
    """Tools become a system message; calls and results become ordinary turns."""
    text = rendered(tmp_path, PLAIN, TURNS, TOOL)
    assert text.startswith("system:You can call these functions:\n")
    assert '"name": "f"' in text.split("user:go")[0]
    assert text.endswith(
        'assistant:{"name": "f", "arguments": {"a": "é"}};user:Result of call_1: 42;'
    )
    mine = [{"role": "system", "content": "Be brief."}, *TURNS]
    assert rendered(tmp_path, PLAIN, mine, TOOL).startswith("system:Be brief.\n\nYou can call")


def test_control_tokens_of_a_format_are_shown(tmp_path: Path) -> None:
    """Markers that are tokens of their own are named, so that the parser gets to see them."""

    async def main() -> None:
        marker = "<｜tool▁calls▁begin｜>"
        async with helper(tmp_path, DEEPSEEK, markers=[marker, "<other>"]) as prompts:
            guide = await prompts.guide(tools=[TOOL])
            assert (guide.family, guide.shown) == ("deepseek", (263,))
            assert await prompts.guide(tools=[TOOL]) == guide
            assert (await prompts.guide(tools=[TOOL], tool_choice="none")).grammar == ""
            with pytest.raises(InvalidRequest) as caught:
                await prompts.guide(tools=[TOOL], tool_choice="maybe")
            assert caught.value.param == "tool_choice"

    asyncio.run(main())


def test_what_a_template_may_read() -> None:
    """Calls, names and ids travel; what is no object stays the string that a model said."""
    raw = {"role": "assistant", "tool_calls": [CALL], "name": "n", "audio": {"id": 1}}
    message = turn("assistant", "", raw)
    assert message == {"role": "assistant", "content": "", "name": "n", "tool_calls": [CALL]}
    broken = {**CALL, "function": {"name": "f", "arguments": "{not json"}}
    kept = with_arguments(
        [{"role": "assistant", "content": "", "tool_calls": [broken]}], objects=True
    )
    assert kept[0]["tool_calls"][0]["function"]["arguments"] == "{not json"


def test_calls_that_are_no_list_are_refused() -> None:
    """A conversation whose `tool_calls` are of another shape is refused, not read without them."""
    message = turn("assistant", "", {"tool_calls": {"function": {"name": "f"}}})
    assert malformed([message]) == "messages[0].tool_calls must be a list"
    assert "tool_calls" not in turn("assistant", "", {"tool_calls": None})
