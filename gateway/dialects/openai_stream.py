"""A stream of OpenAI chunks: the frame that chat and text completions share.

Only what a choice says differs from chunk to chunk, so the rest is serialised once.
"""

from __future__ import annotations

import orjson

from gateway.core.errors import TandemError
from gateway.core.events import Event, UsageReport
from gateway.dialects.base import Answering
from gateway.wire import openai_shapes as shapes
from gateway.wire.sse import encode_comment, encode_data

NULL = b"null"


class OpenAIStream:
    """One answer's chunks. A subclass names their object, and says what an event is in them.

    `BEFORE` and `AFTER` stand around what a choice says. Once an event brings the frame that it
    came from, the answer passes through as it is.
    """

    OBJECT: str
    BEFORE: bytes
    AFTER: bytes

    def __init__(self, answering: Answering, include_usage: bool) -> None:
        head = {
            "id": answering.id,
            "object": self.OBJECT,
            "created": answering.created,
            "model": answering.model,
        }
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._before = b'{"index":%d,' + self.BEFORE
        self._after = self.AFTER + b',"logprobs":'
        self._tail = (b'],"usage":null}' if include_usage else b"]}") + b"\n\n"
        self._include_usage = include_usage
        self._passing = False

    def encode(self, event: Event) -> bytes:
        if event.frame is not None or self._passing:
            self._passing = True
            if isinstance(event, UsageReport) and event.alone and not self._include_usage:
                return b""
            return event.frame or b""
        return self.said(event)

    def said(self, event: Event) -> bytes:
        """The chunks of an event; b"" for one that has none."""
        raise NotImplementedError

    def usage(self, event: UsageReport) -> bytes:
        """The chunk of usage, if the client wants it."""
        if not self._include_usage:
            return b""
        usage = orjson.dumps(shapes.usage_json(event.usage))
        return self._head + b'],"usage":' + usage + b"}\n\n"

    def chunk(
        self, choice: int, said: bytes, finish: bytes = NULL, logprobs: bytes = NULL
    ) -> bytes:
        """The chunk of a choice. What is said, the finish and the logprobs are JSON."""
        return b"".join(
            (
                self._head,
                self._before % choice,
                said,
                self._after,
                logprobs,
                b',"finish_reason":',
                finish,
                b"}",
                self._tail,
            )
        )

    def comment(self, text: str) -> bytes:
        return encode_comment(text)

    def error(self, error: TandemError) -> bytes:
        return encode_data(shapes.error_body(error))

    def end(self) -> bytes:
        return shapes.DONE
