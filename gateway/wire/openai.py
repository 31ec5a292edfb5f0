"""OpenAI's answers, read: stream chunks to core events, documents to a Completion, error bodies.

Pure, and lenient in what it does not need to understand: members that we do not know ride along in
the event's frame. Strict in what it does: an answer whose known members have the wrong type is
Malformed and none of its bytes go any further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.chat import Choice, Completion, ToolCall, Usage
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


class Malformed(ValueError):
    """An answer that is not what its wire promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """An upstream's error, whatever shape it came in. `status` is set if the body names one.

    Its texts are as long as the upstream made them, and may repeat what it was sent.
    """

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None
    status: int | None = None


class Reported(Exception):
    """An error that came where an answer should have been: under 200, or inside a stream."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


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
        index = _integer(choice.get("index"), position)
        if index not in self._finished:
            self._open.add(index)
        delta = _member(choice, "delta")
        text, reasoning = _content(delta)
        text += _text(choice, "text")
        refusal = _text(delta, "refusal")
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
    message = _member(choice, "message")
    text, reasoning = _content(message)
    reason = choice.get("finish_reason")
    return Choice(
        index=_integer(choice.get("index"), position),
        text=text + _text(choice, "text"),
        reasoning=reasoning,
        refusal=_text(message, "refusal"),
        tool_calls=tuple(
            [
                ToolCall(id=call.id, name=call.name, arguments=call.arguments)
                for call in _calls(message)
            ]
        ),
        finish_reason=str(reason) if reason else None,
    )


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises Malformed, without quoting what came."""
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Malformed("not valid JSON") from None
    if not isinstance(parsed, dict):
        raise Malformed("not a JSON object")
    return parsed


def usage_of(
    document: Mapping[str, Any], paths: tuple[tuple[str, ...], ...] = (("usage",),)
) -> Usage | None:
    """The token counts at the first of `paths` that has any. What counts nothing is no count: an
    answer would cost nothing then, where it could have been guessed.
    """
    for path in paths:
        found: Any = document
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and _counts(found):
            return _usage(found)
    return None


def _counts(usage: dict[str, Any]) -> bool:
    told = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return any(_integer(each, -1) >= 0 for each in told) or _cost(usage.get("cost")) is not None


_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def _usage(usage: dict[str, Any]) -> Usage:
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    counted = _integer(prompt, 0), _integer(completion, 0)
    if usage.keys() <= _COUNTS:
        return Usage(prompt_tokens=counted[0], completion_tokens=counted[1])
    prompt_details = _details(usage, "prompt_tokens_details")
    completion_details = _details(usage, "completion_tokens_details")
    return Usage(
        prompt_tokens=counted[0],
        completion_tokens=counted[1],
        cached_tokens=_first(
            prompt_details.get("cached_tokens"),
            usage.get("prompt_cache_hit_tokens"),  # DeepSeek
            usage.get("cached_tokens"),  # Together, Moonshot
            usage.get("num_cached_tokens"),  # Mistral
        ),
        reasoning_tokens=_first(
            completion_details.get("reasoning_tokens"),
            usage.get("reasoning_tokens"),  # Perplexity
        ),
        cost_usd=_cost(usage.get("cost")),
        accepted_prediction_tokens=_integer(
            completion_details.get("accepted_prediction_tokens"), 0
        ),
        rejected_prediction_tokens=_integer(
            completion_details.get("rejected_prediction_tokens"), 0
        ),
    )


def _cost(cost: Any) -> float | None:
    """OpenRouter's `cost`, a number, or Perplexity's, an object with a `total_cost`."""
    total = cost.get("total_cost") if isinstance(cost, dict) else cost
    if isinstance(total, bool) or not isinstance(total, int | float) or total < 0:
        return None
    return float(total)


def _first(*counts: Any) -> int:
    """The first of several spellings that has a count, else 0."""
    for each in counts:
        if each and (count := _integer(each, 0)):
            return count
    return 0


def error_of(document: Mapping[str, Any]) -> ErrorBody | None:
    """The error in a body, in any of the shapes seen in the wild, or None.

    OpenAI's `{"error": {…}}`, Ollama's `{"error": "text"}`, vLLM's older `{"object": "error", …}`,
    FastAPI's `{"detail": …}`. A bare `message` counts only without `choices`.
    """
    error = document.get("error")
    if isinstance(error, dict):
        return _error_body(error)
    if isinstance(error, str) and error:
        return ErrorBody(message=_sentence(error))
    if document.get("object") == "error" or "choices" not in document:
        if document.get("message") is not None:
            return _error_body(document)
        if document.get("detail") is not None:
            return ErrorBody(message=_sentence(document["detail"]))
    return None


def read_error(data: bytes) -> ErrorBody:
    """The error of an event that says of itself that it is one, whatever its data."""
    try:
        body = parse_object(data)
    except Malformed:
        return ErrorBody(message="no message")
    return error_of(body) or _error_body(body)


def _error_body(error: Mapping[str, Any]) -> ErrorBody:
    code = error.get("code")
    status = int(code) if isinstance(code, int | str) and _is_status(code) else None
    return ErrorBody(
        message=_sentence(error.get("message") or "no message"),
        type=_word(error.get("type")),
        param=_word(error.get("param")),
        code=None if status is not None else _word(code),
        status=status,
    )


def _is_status(code: int | str) -> bool:
    text = str(code)
    return len(text) == 3 and text.isascii() and text.isdigit() and "400" <= text <= "599"


def _sentence(message: Any) -> str:
    return message if isinstance(message, str) else orjson.dumps(message).decode()


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


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
        function = _member(call, "function")
        read.append(
            _Call(
                index=_integer(call.get("index"), position),
                id=_text(call, "id"),
                name=_text(function, "name"),
                arguments=_text(function, "arguments"),
            )
        )
    return read


def _content(message: dict[str, Any]) -> tuple[str, str]:
    """A message's text and its reasoning, which has two names and, at Mistral, a third form."""
    reasoning = _text(message, "reasoning_content") or _text(message, "reasoning")
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
                reasoning += _text(thought, "text") if isinstance(thought, dict) else ""
        else:
            text += _text(part, "text")
    return text, reasoning


def _member(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"`{name}` is not an object")
    return value


def _details(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _text(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"`{name}` is not text")
    return value


def _integer(value: Any, default: int) -> int:
    # Not isinstance: True is an int, and no count.
    return value if type(value) is int and value >= 0 else default
