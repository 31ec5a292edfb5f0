from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.chat import ToolCall, Usage
from gateway.core.events import (
    Event,
    Finish,
    Frame,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from gateway.wire.openai import ChunkReader, read_document
from gateway.wire.openai_errors import Reported, error_of, read_error
from gateway.wire.upstream_json import Malformed


def read(*chunks: Any) -> list[Event]:
    reader = ChunkReader(usage_paths=(("usage",), ("x_groq", "usage")))
    return [event for chunk in chunks for event in reader.read(json.dumps(chunk).encode())]


def choice(index: int = 0, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def test_chat_stream() -> None:
    """A chat stream becomes text, a finish and a usage report of its own."""
    assert read(
        choice(role="assistant", content=""),
        choice(content="Hel"),
        choice(content="lo", index=1),
        choice(finish_reason="stop"),
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        },
    ) == [
        Frame(),
        TextDelta(text="Hel"),
        TextDelta(text="lo", choice=1),
        Finish(reason="stop"),
        UsageReport(
            usage=Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4, reasoning_tokens=1)
        ),
    ]


def test_completions_stream() -> None:
    """A legacy completion's text is read from `text`, with its finish in the same chunk."""
    last = {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]}
    assert read({"choices": [{"index": 0, "text": "a"}]}, last) == [
        TextDelta(text="a"),
        TextDelta(text="b"),
        Finish(reason="length"),
    ]


def test_frame_goes_with_exactly_one_event() -> None:
    """A chunk of many events hands its frame to the first, so that it is written once."""
    chunk = choice(reasoning_content="hm", content="x", finish_reason="stop")
    chunk["x_groq"] = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    reader = ChunkReader(usage_paths=(("x_groq", "usage"),))
    events = reader.read(json.dumps(chunk).encode(), b"the frame")
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta, Finish, UsageReport]
    assert [event.frame for event in events] == [b"the frame", None, None, None]


def test_usage_beside_content_is_not_alone() -> None:
    """Usage in a chunk that holds more must not be withheld with its frame."""
    chunk = choice(finish_reason="stop")
    chunk["usage"] = {"prompt_tokens": 1, "completion_tokens": 1}
    [finish, report] = read(chunk)
    assert isinstance(finish, Finish)
    assert isinstance(report, UsageReport) and not report.alone


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None}, {"prompt_tokens": "3", "completion_tokens": -1}]
)
def test_usage_that_counts_nothing_is_none(usage: dict[str, object]) -> None:
    """It is not told as no tokens, which would cost nothing: who keeps the books will guess."""
    assert read({**choice(content="x"), "usage": usage}) == [TextDelta(text="x")]


def test_null_usage_is_none() -> None:
    """`usage: null`, which every chunk has once usage is asked for, reports nothing."""
    assert read({**choice(content="x"), "usage": None}) == [TextDelta(text="x")]


@pytest.mark.parametrize("member", ["reasoning", "reasoning_content"])
def test_reasoning_has_two_names(member: str) -> None:
    """Reasoning is read under either of its names."""
    assert read(choice(**{member: "hm"})) == [ReasoningDelta(text="hm")]


def test_content_parts() -> None:
    """Content in parts, as Mistral sends it, is text and reasoning."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "yes"}]
    assert read(choice(content=parts)) == [ReasoningDelta(text="hm"), TextDelta(text="yes")]


def test_refusal() -> None:
    """A refusal is content of its own kind."""
    assert read(choice(refusal="no")) == [RefusalDelta(text="no")]


def test_tool_call_name_comes_once() -> None:
    """A name that a server repeats in every delta is passed on once per call."""

    def call(arguments: str, index: int = 0) -> dict[str, Any]:
        function = {"name": f"f{index}", "arguments": arguments}
        return choice(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])

    assert read(call('{"a'), call('":1}'), call("{}", index=1)) == [
        ToolCallDelta(index=0, id="c0", name="f0", arguments='{"a'),
        ToolCallDelta(index=0, arguments='":1}'),
        ToolCallDelta(index=1, id="c1", name="f1", arguments="{}"),
    ]


def test_deprecated_function_call() -> None:
    """The deprecated single function call is a tool call without an id."""
    assert read(choice(function_call={"name": "f", "arguments": "{}"})) == [
        ToolCallDelta(name="f", arguments="{}")
    ]


def test_complete() -> None:
    """An answer is complete once each choice that has begun has finished, and not before one."""
    reader = ChunkReader()
    states = []
    for chunk in (
        {"choices": [], "prompt_filter_results": []},
        choice(content="a"),
        choice(index=1, content="b"),
        choice(index=0, finish_reason="stop"),
        choice(index=1, finish_reason="stop"),
    ):
        reader.read(json.dumps(chunk).encode())
        states.append(reader.complete)
    assert states == [False, False, False, False, True]


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b'{"choices":{}}',
        b'{"choices":[1]}',
        b'{"choices":[{"delta":[]}]}',
        b'{"choices":[{"delta":{"content":1}}]}',
        b'{"choices":[{"delta":{"content":[1]}}]}',
        b'{"choices":[{"delta":{"tool_calls":{}}}]}',
        b'{"choices":[{"delta":{"tool_calls":[1]}}]}',
        b'{"choices":[{"text":"\xff"}]}',
    ],
)
def test_malformed_chunk(bad: bytes) -> None:
    """A chunk whose known members have the wrong type is malformed, and is not quoted."""
    with pytest.raises(Malformed) as caught:
        ChunkReader().read(bad)
    assert bad.decode("latin-1") not in str(caught.value)


def test_error_chunk() -> None:
    """An `error` member makes a chunk an error, whatever else it holds."""
    with pytest.raises(Reported) as caught:
        read({**choice(content="x"), "error": {"message": "boom", "code": 503}})
    assert (caught.value.error.message, caught.value.error.status) == ("boom", 503)


def test_document() -> None:
    """A whole answer keeps text, reasoning, tool calls, finish and usage."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
    document = {
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
    completion = read_document(json.dumps(document).encode())
    [only] = completion.choices
    assert only.tool_calls == (ToolCall(id="c", name="f", arguments="{}"),)
    assert (only.text, only.reasoning, only.finish_reason) == ("", "hm", "tool_calls")
    assert completion.usage == Usage(prompt_tokens=3, completion_tokens=4)


@pytest.mark.parametrize("bad", [b"", b"null", b"{}", b'{"choices":[]}', b'{"choices":["x"]}'])
def test_malformed_document(bad: bytes) -> None:
    """A document without choices is no answer."""
    with pytest.raises(Malformed):
        read_document(bad)


@pytest.mark.parametrize(
    ("body", "message", "code", "status"),
    [
        ({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}, "m", "c", None),
        ({"error": {"message": "m", "code": 404}}, "m", None, 404),
        ({"error": {"message": "m", "code": "429"}}, "m", None, 429),
        ({"error": "m"}, "m", None, None),
        ({"object": "error", "message": "m", "type": "t", "code": 400}, "m", None, 400),
        ({"detail": "m"}, "m", None, None),
        ({"detail": [{"loc": ["body"], "msg": "m"}]}, '[{"loc":["body"],"msg":"m"}]', None, None),
        ({"message": "m"}, "m", None, None),
        ({"error": {}}, "no message", None, None),
    ],
)  # fmt: skip
def test_error_shapes(body: Any, message: str, code: str | None, status: int | None) -> None:
    """An error is found in every shape that servers of this wire write it in."""
    error = error_of(body)
    assert error is not None
    assert (error.message, error.code, error.status) == (message, code, status)


@pytest.mark.parametrize("body", [{"choices": [], "error": None}, {"choices": [], "message": "m"}])
def test_no_error(body: Any) -> None:
    """A null error, or a stray message beside choices, is no error."""
    assert error_of(body) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [(b'{"error":{"message":"m"}}', "m"), (b'{"message":"m"}', "m"), (b"oops", "no message")],
)
def test_error_event(data: bytes, message: str) -> None:
    """An event named `error` is one, whatever its data looks like."""
    assert read_error(data).message == message
