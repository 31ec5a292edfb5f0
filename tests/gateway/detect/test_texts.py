"""What of a request is looked at: everything that a model, or an upstream, would read."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.core.chat import ChatRequest
from gateway.core.registry import load
from gateway.detect.texts import is_opaque, text_of, units
from gateway.dialects import DIALECTS

CANARY = "canary-7f3a"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def decoded(path: str, body: dict[str, Any]) -> ChatRequest:
    request: ChatRequest = load(DIALECTS, path, what="path")().decode(body, {})
    return request


def seen(request: ChatRequest) -> tuple[str, bool]:
    read = [text_of(unit) for unit in units(request)]
    return "\n".join(text for text, _ in read), is_opaque(request) or any(o for _, o in read)


def user(content: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}]}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PLACES: list[tuple[str, str, dict[str, Any]]] = [
    ("a user's words", CHAT, user(f"I am {CANARY}")),
    ("a part of them", CHAT, user([{"type": "text", "text": CANARY}])),
    (
        "a name",
        CHAT,
        {"model": "m", "messages": [{"role": "user", "name": CANARY, "content": "x"}]},
    ),
    ("a system prompt", CHAT, {"model": "m", "messages": [{"role": "system", "content": CANARY}]}),
    (
        "a tool's arguments",
        CHAT,
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {**CALL, "function": {"name": "f", "arguments": '{"a": "' + CANARY + '"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "y"},
            ],
        },
    ),
    (
        "a tool's result",
        CHAT,
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": CANARY},
            ],
        },
    ),
    ("a tool's description", CHAT, {**user("x"), "tools": [{**TOOL, "description": CANARY}]}),
    (
        "a schema's key",
        CHAT,
        {
            **user("x"),
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": {"properties": {CANARY: {}}}},
            },
        },
    ),
    ("the user's id", CHAT, {**user("x"), "user": CANARY}),
    ("a stop", CHAT, {**user("x"), "stop": [CANARY]}),
    ("a field that we do not know", CHAT, {**user("x"), "some_field": {"a": [{"b": CANARY}]}}),
    ("a field's name", CHAT, {**user("x"), CANARY: True}),
    (
        "a text as a data URL",
        CHAT,
        user(
            [
                {
                    "type": "text",
                    "text": "data:text/plain;base64," + base64.b64encode(CANARY.encode()).decode(),
                }
            ]
        ),
    ),
    ("a prompt", COMPLETION, {"model": "m", "prompt": CANARY}),
    ("a suffix", COMPLETION, {"model": "m", "prompt": "x", "suffix": CANARY}),
    ("a prefix to fill after", "/infill", {"input_prefix": CANARY, "input_suffix": "y"}),
    ("what stands behind the hole", "/infill", {"input_prefix": "x", "input_suffix": CANARY}),
    (
        "another file",
        "/infill",
        {
            "input_prefix": "x",
            "input_suffix": "y",
            "input_extra": [{"filename": "a.py", "text": CANARY}],
        },
    ),
    (
        "another file's name",
        "/infill",
        {
            "input_prefix": "x",
            "input_suffix": "y",
            "input_extra": [{"filename": CANARY, "text": "z"}],
        },
    ),
    ("a text to embed", "/v1/embeddings", {"model": "m", "input": CANARY}),
    ("one of several", "/v1/embeddings", {"model": "m", "input": ["x", CANARY]}),
]


@pytest.mark.parametrize(
    ("path", "body"), [each[1:] for each in PLACES], ids=[each[0] for each in PLACES]
)
def test_every_place_of_a_request_is_read(path: str, body: dict[str, Any]) -> None:
    """Wherever a client may put words, they are among what is scanned, and no more is opaque."""
    text, opaque = seen(decoded(path, body))
    assert CANARY in text
    assert not opaque


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "text", "text": "data:application/pdf;base64,AAAA"},
    ],
)
def test_what_is_no_text_is_opaque(part: dict[str, Any]) -> None:
    """Pictures, sounds and files say nothing to a pattern, and are named as what they are."""
    message = {"role": "user", "content": [{"type": "text", "text": "see"}, part]}
    request = ChatRequest(
        endpoint="chat",  # type: ignore[arg-type]
        dialect="openai_chat",
        model="m",
        body={"messages": [message]},
    )
    assert seen(request)[1]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETION, {"model": "m", "prompt": [1, 2, 3]}),
        ("/v1/embeddings", {"model": "m", "input": [1, 2, 3]}),
        ("/v1/embeddings", {"model": "m", "input": [[1, 2], [3]]}),
    ],
)
def test_token_ids_are_opaque(path: str, body: dict[str, Any]) -> None:
    """A prompt of token ids can be read with its model's vocabulary only."""
    assert seen(decoded(path, body))[1]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"type": {"type": "string"}}},
        {"type": "integer", "enum": [1, 2, 3]},
        {"anyOf": [{"type": ["integer"], "enum": [5]}, {"type": "null"}]},
    ],
)
@pytest.mark.parametrize("place", ["tools", "response_format"])
def test_schemas_are_read_as_schemas(place: str, schema: dict[str, Any]) -> None:
    """A list of types, a property called type and an enum of numbers are neither pictures nor
    token ids; an enum's texts and long numbers are read.
    """
    named = {"name": "f", "parameters": schema, "schema": schema}
    tool = {"type": "function", "function": named}
    given = [tool] if place == "tools" else {"type": "json_schema", "json_schema": named}
    body = {**user("hi"), place: given}
    assert not seen(decoded(CHAT, body))[1]
    schema["enum"] = ["a word", 4111111111111111]
    text, opaque = seen(decoded(CHAT, body))
    assert "a word" in text and "4111111111111111" in text and not opaque


def test_a_number_may_be_a_card() -> None:
    """A long JSON number is read as its digits; a short one, a limit or a seed is not."""
    text, opaque = seen(decoded(CHAT, {**user("x"), "seed": 41111111, "metadata": {"n": 41111112}}))
    assert "41111112" in text and "41111111" not in text and not opaque
