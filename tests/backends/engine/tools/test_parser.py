"""Tool-call parsers on what models of each family write."""

from __future__ import annotations

import json
from dataclasses import replace as copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.tools import FAMILIES, family_of
from backends.engine.tools.parser import CallParser
from gateway.core.events import TextDelta, ToolCallDelta

RECORDED: dict[str, tuple[str, str, str, list[tuple[str, dict[str, object]]]]] = {
    "qwen2.5, text first": (
        "hermes",
        "I'll look that up.\n\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n</tool_call>',
        "I'll look that up.",
        [("get_weather", {"city": "Paris", "unit": "celsius"})],
    ),
    "qwen2.5, two": (
        "hermes",
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "",
        [("add", {"a": 1, "b": [2, {"c": "}"}]}), ("now", {})],
    ),
    "hermes without blanks": (
        "hermes",
        '<tool_call>{"name":"say","arguments":'
        '{"text":"a \\"quoted\\" <tool_call> \\\\"}}</tool_call>',
        "",
        [("say", {"text": 'a "quoted" <tool_call> \\'})],
    ),
    "plain text with a tag that is none": (
        "hermes",
        "Use <tool> and <tool_cal, then x < y.\n",
        "Use <tool> and <tool_cal, then x < y.\n",
        [],
    ),
    "llama 3.1": (
        "llama3",
        '{"name": "get_weather", "parameters": {"city": "Berlin"}}',
        "",
        [("get_weather", {"city": "Berlin"})],
    ),
    "llama 3.1, python tag": (
        "llama3",
        '<|python_tag|>{"name": "search", "parameters": {"q": "näher {1}"}}',
        "",
        [("search", {"q": "näher {1}"})],
    ),
    "llama 3.1, text": ("llama3", "A set is {1, 2}.", "A set is {1, 2}.", []),
    "mistral with ids": (
        "mistral",
        '[TOOL_CALLS][{"name": "a", "arguments": {"x": 1}, "id": "D681PevKs"}, '
        '{"name": "b", "arguments": {"y": "]"}, "id": "Aa1Bb2Cc3"}]',
        "",
        [("a", {"x": 1}), ("b", {"y": "]"})],
    ),
    "mistral small 3.2": (
        "mistral-args",
        'Let me see.[TOOL_CALLS]get_weather[ARGS]{"city": "Nice"}[TOOL_CALLS]now[ARGS]{}',
        "Let me see.",
        [("get_weather", {"city": "Nice"}), ("now", {})],
    ),
    "deepseek v3": (
        "deepseek",
        "Sure.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        '```json\n{"city": "Tokyo"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n"
        '{"zone": "JST"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "Sure.",
        [("get_weather", {"city": "Tokyo"}), ("get_time", {"zone": "JST"})],
    ),
    "deepseek v3.1": (
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Tokyo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "",
        [("get_weather", {"city": "Tokyo"})],
    ),
    "functionary 3.1": (
        "functionary",
        'Checking <b>now</b>. <function=get_weather>{"city": "Oslo"}</function>',
        "Checking <b>now</b>.",
        [("get_weather", {"city": "Oslo"})],
    ),
    "generic, two": (
        "generic",
        '{"name": "a", "arguments": {"x": [1]}}\n{"name": "b", "arguments": {}}',
        "",
        [("a", {"x": [1]}), ("b", {})],
    ),
}
CASES = pytest.mark.parametrize("case", RECORDED)


def parse(family: str, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The content, and names and arguments of the calls; deltas in OpenAI's form."""
    parser = CallParser(FAMILIES[family])
    content, calls, ids = "", [], set()
    for delta in [d for piece in pieces for d in parser.feed(piece)] + parser.finish():
        if isinstance(delta, TextDelta):
            content += delta.text
            continue
        assert isinstance(delta, ToolCallDelta)
        if delta.name:
            assert delta.index == len(calls) and delta.id and not delta.arguments
            ids.add(delta.id)
            calls.append((delta.name, ""))
        else:
            assert delta.index == len(calls) - 1 and not delta.id and delta.arguments
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    assert len(ids) == len(calls) == parser.calls
    return content, calls


@CASES
def test_recorded_answers(case: str) -> None:
    """Content, names and arguments come out, markers do not."""
    family, text, content, calls = RECORDED[case]
    said, called = parse(family, [text])
    assert said == content
    assert [(name, json.loads(arguments)) for name, arguments in called] == calls


@CASES
def test_any_single_cut_gives_the_same(case: str) -> None:
    """Cut in two at every place, or into single characters, an answer means the same."""
    family, text, _, _ = RECORDED[case]
    whole = parse(family, [text])
    for at in range(len(text) + 1):
        assert parse(family, [text[:at], text[at:]]) == whole
    assert parse(family, list(text)) == whole


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(RECORDED)), st.sets(st.integers(0, 300)))
def test_any_cuts_give_the_same(case: str, cuts: set[int]) -> None:
    """However an answer is cut into pieces, it means the same."""
    family, text, _, _ = RECORDED[case]
    at = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[a:b] for a, b in zip(at, at[1:], strict=False)]
    assert parse(family, pieces) == parse(family, [text])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.text(alphabet='<tool_ca>{"name": []}[TOOL_CALLS]\n', max_size=60),
)
def test_garbage_is_never_fatal(family: str, text: str) -> None:
    """Whatever a model writes, parsing ends, the same for every cut, and shows no marker."""
    content, calls = parse(family, [text])
    assert parse(family, list(text)) == (content, calls)
    marker = FAMILIES[family].marker
    assert not marker or marker not in content


@CASES
def test_an_answer_that_is_cut_short(case: str) -> None:
    """An answer that ends too early shows what it has of content and arguments, nothing else."""
    family, text, content, calls = RECORDED[case]
    for at in range(len(text)):
        said, called = parse(family, [text[:at]])
        marker = FAMILIES[family].marker
        begun = next((n for n in range(len(marker), 0, -1) if said.endswith(marker[:n])), 0)
        assert content.startswith((said, said[: len(said) - begun].rstrip()))
        assert [name for name, _ in called] == [name for name, _ in calls[: len(called)]]


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ tools }}<tool_call>", "hermes"),
        ('{{ tools }}<|start_header_id|>{"name": x, "parameters": y}', "llama3"),
        ("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral"),
        ("{{ tools }}[TOOL_CALLS] [ARGS]", "mistral-args"),
        ("{{ tools }}<｜tool▁calls▁begin｜>```json", "deepseek"),
        ("{{ tools }}<｜tool▁calls▁begin｜>", "deepseek-v3.1"),
        ("{{ tools }}<function=", "functionary"),
        ("<|im_start|>{{ messages }}", "generic"),
        ("", "generic"),
    ],
)  # fmt: skip
def test_a_template_names_its_family(template: str, family: str) -> None:
    """A model's format is read off its chat template; without tools in it, the generic one."""
    assert family_of(template).name == family


def test_mistral_ids() -> None:
    """Mistral's ids are nine letters and digits, and foreign ones are made so, alike each time."""
    family = FAMILIES["mistral"]
    assert len(family.call_id()) == 9
    calls = [{"id": "call_abc", "function": {"name": "f", "arguments": {}}}]
    turns = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": "call_abc"},
    ]
    said, result = family.messages(turns, [])
    assert said["tool_calls"][0]["id"] == result["tool_call_id"] != "call_abc"
    assert len(result["tool_call_id"]) == 9
    assert turns[1]["tool_call_id"] == "call_abc"
    assert copy(family, name="x").name == "x"
