"""Thoughts written into the text, `<think>…</think>`, taken out of it and put where they belong.

Many open models think inside their text, and servers without a reasoning parser pass that on. Here
`content` is split into `reasoning_content` and what is left, in the document itself, so that all
other members go on as they came. A tag may be cut anywhere between two chunks; what may still
become one is held back, at most a few characters.

One block, at the very beginning: models that think do so first, and a `<think>` further on is text
that somebody talks about. The blanks around the tags are markup too.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

import orjson

from gateway.wire.upstream_json import parse_object

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
MAX_LEADING_BLANKS: Final = 64
"""Before the tag; a text that begins with more has none."""


class _At(Enum):
    START = auto()  # blanks, or what may become the opening tag
    OPENED = auto()  # blanks after the opening tag
    THOUGHT = auto()
    CLOSED = auto()  # blanks after the closing tag
    TEXT = auto()


class ThoughtSplitter:
    """One answer's text, piece by piece, to (thoughts, text).

    `opened`: the prompt's template has written the opening tag, so the answer begins with thoughts;
    one that writes it again is understood. However the text is cut into pieces, the joined results
    are the same, and a text without a tag at its beginning comes out as it went in.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self._opened = opened
        self._at = _At.START
        self._held = ""

    @property
    def settled(self) -> bool:
        """Nothing is held, and all that comes is text."""
        return self._at is _At.TEXT

    def feed(self, piece: str) -> tuple[str, str]:
        if self._at is _At.TEXT:
            return "", piece
        rest, self._held = self._held + piece, ""
        if self._at is _At.START:
            rest = self._begin(rest)
        if self._at is _At.OPENED:
            rest = rest.lstrip()
            self._at = _At.THOUGHT if rest else _At.OPENED
        thoughts = ""
        if self._at is _At.THOUGHT:
            thoughts, closed, rest = rest.partition(CLOSE)
            if closed:
                self._at = _At.CLOSED
            else:
                sure = len(thoughts) - _beginning_of(CLOSE, thoughts)
                thoughts, self._held = thoughts[:sure], thoughts[sure:]
        if self._at is _At.CLOSED:
            rest = rest.lstrip()
            self._at = _At.TEXT if rest else _At.CLOSED
        return thoughts, rest if self._at is _At.TEXT else ""

    def end(self) -> tuple[str, str]:
        """The text has ended: what was held is no tag after all."""
        held, self._held = self._held, ""
        thinking = self._at is _At.THOUGHT or (self._at is _At.START and self._opened)
        self._at = _At.TEXT
        return (held, "") if thinking else ("", held)

    def _begin(self, text: str) -> str:
        """What follows the opening tag, or all of it where there is none; "" while unknown."""
        blank = len(text) - len(text.lstrip())
        begun = text[blank:]
        if blank <= MAX_LEADING_BLANKS:
            if begun.startswith(OPEN):
                self._at = _At.OPENED
                return begun[len(OPEN) :]
            if OPEN.startswith(begun):
                self._held = text
                return ""
        self._at = _At.OPENED if self._opened else _At.TEXT
        return text


class InlineReasoning:
    """An answer's chunks, or its document, with the thoughts in `reasoning_content`.

    Only chat: a `/completions` text is what the model wrote, tags and all.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self._opened = opened
        self._choices: dict[int, ThoughtSplitter] = {}
        self._last: dict[str, Any] = {}

    @property
    def settled(self) -> bool:
        """Each choice that has begun has nothing but text to come."""
        return bool(self._choices) and all(each.settled for each in self._choices.values())

    def chunk(self, data: bytes) -> bytes | None:
        """The chunk with its text split, None if it stays as it is. Raises Malformed."""
        chunk = parse_object(data)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return None
        changed = False
        for at, choice in enumerate(choices):
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if isinstance(delta, dict):
                self._last = chunk
                changed |= self._split(delta, choice, at, ended=bool(choice.get("finish_reason")))
        return orjson.dumps(chunk) if changed else None

    def document(self, data: bytes) -> bytes:
        """A whole answer with its texts split. Raises Malformed."""
        document = parse_object(data)
        choices = document.get("choices")
        changed = False
        for at, choice in enumerate(choices if isinstance(choices, list) else []):
            message = choice.get("message") if isinstance(choice, dict) else None
            if isinstance(message, dict):
                changed |= self._split(message, choice, at, ended=True)
        return orjson.dumps(document) if changed else data

    def rest(self) -> bytes | None:
        """A chunk of what was held when the stream ended without a finish; None if nothing was."""
        choices: list[dict[str, Any]] = []
        for index, splitter in self._choices.items():
            thoughts, text = splitter.end()
            if thoughts or text:
                delta = {"reasoning_content": thoughts} if thoughts else {"content": text}
                choices.append({"index": index, "delta": delta, "finish_reason": None})
        if not choices:
            return None
        head = {name: self._last[name] for name in ("id", "object", "created", "model")
                if name in self._last}  # fmt: skip
        return orjson.dumps({**head, "choices": choices})

    def _split(
        self, message: dict[str, Any], choice: dict[str, Any], at: int, *, ended: bool
    ) -> bool:
        content = message.get("content")
        index = choice.get("index")
        index = index if isinstance(index, int) else at
        if content is not None and not isinstance(content, str):
            return False
        splitter = self._choices.get(index)
        if splitter is None:
            if not content and not ended:
                return False  # a role, or a tool call before any text
            splitter = self._choices[index] = ThoughtSplitter(opened=self._opened)
        if splitter.settled:
            return False
        thoughts, text = splitter.feed(content or "")
        said = message.get("reasoning_content") or message.get("reasoning")
        if ended or said or message.get("tool_calls"):
            # Where the server says thoughts by themselves there are none in the text.
            more_thoughts, more_text = splitter.end()
            thoughts, text = thoughts + more_thoughts, text + more_text
        if not thoughts and text == (content or ""):
            return False
        if thoughts:
            message["reasoning_content"] = (said if isinstance(said, str) else "") + thoughts
        message["content"] = text
        return True


def _beginning_of(tag: str, text: str) -> int:
    """How many of the text's last characters may be the tag's first."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
