"""What every dialect promises: one suite, run on each entry of DIALECTS."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.core.chat import Choice, Completion, Feature, ToolCall, Usage
from gateway.core.errors import InvalidRequest, NotFound, TandemError
from gateway.core.events import (
    Event,
    Finish,
    Frame,
    ReasoningDelta,
    SpeculationReport,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from gateway.core.registry import load
from gateway.dialects import DIALECTS
from gateway.dialects.base import Answering, Dialect
from gateway.schema import PROXY_REQUESTS
from gateway.wire import fields
from gateway.wire.sse import SseDecoder

MINIMAL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "m", "prompt": "hi"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/v1/embeddings": {"model": "m", "input": "hi"},
}
TALKING = [path for path in DIALECTS if path != "/v1/embeddings"]
"""Those that answer with text, and stream it."""
ANSWERING = Answering(id="x-1", created=1, model="m")
USAGE = Usage(prompt_tokens=3, completion_tokens=2)


def dialect(path: str) -> Dialect:
    return load(DIALECTS, path, what="path")()  # type: ignore[no-any-return]


def text_of(path: str, data: dict[str, Any]) -> str:
    """The text in a whole answer or in one stream event."""
    if path == "/infill":
        return str(data.get("content", ""))
    if not data["choices"]:
        return ""
    choice = data["choices"][0]
    if path == "/v1/completions":
        return str(choice["text"])
    return str((choice.get("message") or choice.get("delta") or {}).get("content") or "")


def spoken(path: str, events: list[Event], **body: Any) -> tuple[list[dict[str, Any]], bytes]:
    """The JSON of each data event that an encoder writes for these events, and the raw bytes."""
    each = dialect(path)
    request = each.decode({**MINIMAL[path], "stream": True, **body}, {})
    encoder = each.encoder(ANSWERING, request)
    raw = b"".join(encoder.encode(event) for event in events) + encoder.end()
    frames = [frame.data for frame in SseDecoder(1 << 20).feed(raw) if frame.data is not None]
    return [json.loads(data) for data in frames if data != b"[DONE]"], raw


@pytest.mark.parametrize("path", DIALECTS)
def test_satisfies_the_contract(path: str) -> None:
    """A dialect has every member of the Protocol, and its smallest request decodes."""
    each = dialect(path)
    assert isinstance(each, Dialect)
    request = each.decode(MINIMAL[path], {})
    assert request.dialect == each.name
    assert request.features
    assert request.body == MINIMAL[path]


@pytest.mark.parametrize("path", TALKING)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6))
def test_streams_say_what_events_say(path: str, pieces: list[str]) -> None:
    """The text that an encoder writes is the text of its events, whatever characters it has."""
    events: list[Event] = [TextDelta(text=piece) for piece in pieces]
    said, raw = spoken(path, [*events, Finish(reason="stop"), UsageReport(usage=USAGE)])
    assert "".join(text_of(path, data) for data in said) == "".join(pieces)
    assert raw.endswith(b"\n\n")
    raw.decode()


@pytest.mark.parametrize("path", TALKING)
def test_whole_answers_say_what_the_completion_says(path: str) -> None:
    """A whole answer has the text, the finish and the usage."""
    each = dialect(path)
    choice = Choice(text='say "hi"\n', finish_reason="stop")
    completion = Completion(choices=(choice,), usage=USAGE)
    raw = each.encode(completion, ANSWERING, each.decode(MINIMAL[path], {}))
    data = json.loads(raw)
    assert text_of(path, data) == 'say "hi"\n'
    assert b'": ' not in raw  # compact: llama.vim looks at raw bytes
    if path != "/infill":
        assert data["usage"]["total_tokens"] == 5
        assert data["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", TALKING)
def test_errors_have_four_keys(path: str) -> None:
    """A failure before the first byte and one after it carry message, type, param and code."""
    each = dialect(path)
    error: TandemError = NotFound("gone", param="model", code="model_not_found")
    whole = json.loads(each.error(error))
    encoder = each.encoder(ANSWERING, each.decode(MINIMAL[path], {}))
    (frame,) = SseDecoder(1 << 20).feed(encoder.error(error))
    assert frame.data is not None
    assert whole == json.loads(frame.data)
    assert set(whole["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", DIALECTS)
@settings(max_examples=150, deadline=None)
@given(
    noise=st.dictionaries(
        st.sampled_from(
            "model messages prompt suffix input dimensions encoding_format "
            "input_prefix input_suffix input_extra stream n stop seed "
            "temperature top_p top_k max_tokens n_predict tools response_format logprobs "
            "logit_bias stream_options response_fields".split()
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_garbage_is_a_400(path: str, noise: dict[str, Any]) -> None:
    """Whatever JSON comes, decode returns a request or raises InvalidRequest; nothing else."""
    each = dialect(path)
    try:
        request = each.decode({**MINIMAL[path], **noise}, {})
    except InvalidRequest as error:
        assert error.status == 400
        return
    assert request.text_bytes >= 0


@pytest.mark.parametrize("path", PROXY_REQUESTS)
@settings(max_examples=150, deadline=None)
@given(
    change=st.sampled_from(
        [
            {"temperature": 0.5},
            {"temperature": -1},
            {"temperature": "x"},
            {"top_p": 1.5},
            {"top_k": -2},
            {"stream": "yes"},
            {"stream": True},
            {"seed": 4},
            {"unknown_field": {"a": 1}},
            {"stop": "x"},
            {"stop": ["x", "y"]},
            {"temperature": None},
        ]
    )
)
def test_the_schema_agrees_with_the_hot_path(path: str, change: dict[str, Any]) -> None:
    """What /openapi.json says of a body is what decode does with it."""
    body = {**MINIMAL[path], **change}
    try:
        dialect(path).decode(body, {})
        accepted = True
    except InvalidRequest:
        accepted = False
    try:
        PROXY_REQUESTS[path].model_validate(body, strict=False)
        valid = True
    except ValidationError:
        valid = False
    if change == {"stream": "yes"}:
        valid = False  # pydantic reads "yes" as true; JSON schema, which we publish, does not
    assert accepted == valid


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_frames_pass_untouched(path: str) -> None:
    """Where the upstream speaks the client's wire, its bytes are the client's bytes."""
    frames = [b'data: {"a":1}\n\n', b'data: {"choices": [ {"x":2} ]}\n\n', b'data: {"u":3}\n\n']
    events: list[Event] = [
        Frame(frame=frames[0]),
        TextDelta(text="hi", frame=frames[1]),
        Finish(reason="stop"),
        UsageReport(usage=USAGE, alone=True, frame=frames[2]),
    ]
    each = dialect(path)
    for asked, expected in ((False, frames[:2]), (True, frames)):
        body = {**MINIMAL[path], "stream": True, "stream_options": {"include_usage": asked}}
        encoder = each.encoder(ANSWERING, each.decode(body, {}))
        assert b"".join(encoder.encode(event) for event in events) == b"".join(expected)


def test_usage_comes_last_and_only_when_asked() -> None:
    """With include_usage every chunk has usage null and a last one has the numbers."""
    events: list[Event] = [TextDelta(text="a"), Finish(reason="stop"), UsageReport(usage=USAGE)]
    path = "/v1/chat/completions"
    plain, raw = spoken(path, events)
    assert all("usage" not in data for data in plain)
    assert raw.endswith(b"data: [DONE]\n\n")
    asked, _ = spoken(path, events, stream_options={"include_usage": True})
    assert [data["usage"] for data in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == 2


def test_tool_calls_name_themselves_once() -> None:
    """id, type and name come with the first delta of a call, arguments pieces after it."""
    events: list[Event] = [
        ToolCallDelta(index=0, id="c1", name="f"),
        ToolCallDelta(index=0, arguments='{"a":'),
        ToolCallDelta(index=0, arguments="1}"),
        Finish(reason="tool_calls"),
    ]
    said, _ = spoken("/v1/chat/completions", events)
    calls = [data["choices"][0]["delta"].get("tool_calls") for data in said]
    first, *later = [call[0] for call in calls if call]
    assert (first["id"], first["type"], first["function"]["name"]) == ("c1", "function", "f")
    assert all(set(call) == {"index", "function"} for call in later)
    assert all(set(call["function"]) == {"arguments"} for call in later)
    each = dialect("/v1/chat/completions")
    choice = Choice(
        tool_calls=(ToolCall(id="c1", name="f", arguments="{}"),), finish_reason="tool_calls"
    )
    whole = json.loads(
        each.encode(
            Completion(choices=(choice,)),
            ANSWERING,
            each.decode(MINIMAL["/v1/chat/completions"], {}),
        )
    )
    assert whole["choices"][0]["message"]["content"] is None
    assert whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"


def test_reasoning_is_shown_and_reports_are_not() -> None:
    """Reasoning has its own delta field; what only the record needs writes nothing."""
    events: list[Event] = [
        ReasoningDelta(text="hm"),
        SpeculationReport(strategy="companion"),
        TextDelta(text="so"),
        Finish(reason="stop"),
    ]
    said, _ = spoken("/v1/chat/completions", events)
    assert any(d["choices"][0]["delta"].get("reasoning_content") == "hm" for d in said)
    assert "companion" not in json.dumps(said)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_tool_choice_needs_an_upstream_with_tools(choice: Any) -> None:
    """A demanded call is never forgotten because the list of tools is missing."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    decode = dialect("/v1/chat/completions").decode
    assert Feature.TOOLS in decode({**body, "tool_choice": choice}, {}).features
    assert Feature.TOOLS not in decode({**body, "tool_choice": "auto"}, {}).features


def test_a_bound_that_is_passed_is_named() -> None:
    """A number above 64 bits is told the upper bound."""
    with pytest.raises(InvalidRequest, match=f"to {2**63 - 1}"):
        fields.integer({"seed": 2**63}, "seed", 0)
