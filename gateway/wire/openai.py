"""OpenAI's answers, read: stream chunks to core events, documents to a Completion.

Pure, and lenient in what it does not need to understand: members that we do not know ride along in
the event's frame. Strict in what it does: an answer whose known members have the wrong type is
Malformed and none of its bytes go any further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.core.chat import Choice, Completion, ToolCall
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
from gateway.wire.openai_errors import Reported, error_of
from gateway.wire.openai_usage import usage_of
from gateway.wire.upstream_json import Malformed, integer, member, parse_object, string


class ChunkReader:
    """Reads one stream's chunks; what it holds is what a truncated stream would be missing.

    `usage_paths` says where this upstream reports tokens, as paths of member names.
    """

    def __init__(self, usage_paths: tuple[tuple[str, ...], ...] = (("usage",),)) -> None:
        self._usage_paths = usage_paths
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._named: set[tuple[int, int]] = set()

    @property
    def complete(self) -> bool:
        """Whether the answer has begun and each of its choices has finished."""
        return bool(self._finished) and not self._open

    def read(self, data: bytes, frame: bytes | None = None) -> list[Event]:
        """The events of one chunk, never empty; `frame` goes with the first and only with it.

        Raises Malformed, and Reported if the chunk is an error.
        """
        chunk = parse_object(data)
        error = error_of(chunk)
        if error is not None:
            raise Reported(error)
        choices = chunk.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list):
            raise Malformed("`choices` is not a list")
        events: list[Event] = []
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise Malformed("a choice is not an object")
            self._choice(choice, position, events, frame)
        usage = usage_of(chunk, self._usage_paths)
        if usage is not None:
            first = None if events else frame
            events.append(UsageReport(usage=usage, alone=not choices, frame=first))
        if not events:
            events.append(Frame(frame=frame))
        return events

    def _choice(
        self, choice: dict[str, Any], position: int, events: list[Event], frame: bytes | None
    ) -> None:
        index = integer(choice.get("index"), position)
        if index not in self._finished:
            self._open.add(index)
        delta = member(choice, "delta")
        text, reasoning = _content(delta)
        text += string(choice, "text")
        refusal = string(delta, "refusal")
        if reasoning:
            first = None if events else frame
            events.append(ReasoningDelta(text=reasoning, choice=index, frame=first))
        if text:
            first = None if events else frame
            events.append(TextDelta(text=text, choice=index, frame=first))
        if refusal:
            first = None if events else frame
            events.append(RefusalDelta(text=refusal, choice=index, frame=first))
        for call in _calls(delta):
            first = None if events else frame
            events.append(self._call(call, index, first))
        reason = choice.get("finish_reason")
        if reason:
            first = None if events else frame
            events.append(Finish(reason=str(reason), choice=index, frame=first))
            self._open.discard(index)
            self._finished.add(index)

    def _call(self, call: _Call, choice: int, frame: bytes | None) -> ToolCallDelta:
        # Some servers repeat id and name in every delta, which clients join to a name no tool has.
        again = (choice, call.index) in self._named
        if call.name:
            self._named.add((choice, call.index))
        return ToolCallDelta(
            index=call.index,
            id="" if again else call.id,
            name="" if again else call.name,
            arguments=call.arguments,
            choice=choice,
            frame=frame,
        )


def read_document(
    data: bytes, usage_paths: tuple[tuple[str, ...], ...] = (("usage",),)
) -> Completion:
    """A whole answer. Raises Malformed, and Reported if it is an error."""
    document = parse_object(data)
    error = error_of(document)
    if error is not None:
        raise Reported(error)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Malformed("no `choices` in the answer")
    return Completion(
        choices=tuple([_whole_choice(choice, i) for i, choice in enumerate(choices)]),
        usage=usage_of(document, usage_paths),
    )


def _whole_choice(choice: Any, position: int) -> Choice:
    if not isinstance(choice, dict):
        raise Malformed("a choice is not an object")
    message = member(choice, "message")
    text, reasoning = _content(message)
    reason = choice.get("finish_reason")
    return Choice(
        index=integer(choice.get("index"), position),
        text=text + string(choice, "text"),
        reasoning=reasoning,
        refusal=string(message, "refusal"),
        tool_calls=tuple(
            [
                ToolCall(id=call.id, name=call.name, arguments=call.arguments)
                for call in _calls(message)
            ]
        ),
        finish_reason=str(reason) if reason else None,
    )


@dataclass(frozen=True, slots=True)
class _Call:
    index: int
    id: str
    name: str
    arguments: str


def _calls(message: dict[str, Any]) -> list[_Call]:
    calls = message.get("tool_calls")
    if calls is None:
        # The deprecated single call. It has no id, and cannot meet the other form in one message.
        function = message.get("function_call")
        if function is None:
            return []
        calls = [{"index": 0, "function": function}]
    if not isinstance(calls, list):
        raise Malformed("`tool_calls` is not a list")
    read = []
    for position, call in enumerate(calls):
        if not isinstance(call, dict):
            raise Malformed("a tool call is not an object")
        function = member(call, "function")
        read.append(
            _Call(
                index=integer(call.get("index"), position),
                id=string(call, "id"),
                name=string(function, "name"),
                arguments=string(function, "arguments"),
            )
        )
    return read


def _content(message: dict[str, Any]) -> tuple[str, str]:
    """A message's text and its reasoning, which has two names and, at Mistral, a third form."""
    reasoning = string(message, "reasoning_content") or string(message, "reasoning")
    content = message.get("content")
    if content is None:
        return "", reasoning
    if isinstance(content, str):
        return content, reasoning
    if not isinstance(content, list):
        raise Malformed("`content` is neither text nor a list of parts")
    text = ""
    for part in content:
        if not isinstance(part, dict):
            raise Malformed("a content part is not an object")
        if part.get("type") == "thinking":
            thoughts = part.get("thinking")
            for thought in thoughts if isinstance(thoughts, list) else []:
                reasoning += string(thought, "text") if isinstance(thought, dict) else ""
        else:
            text += string(part, "text")
    return text, reasoning
