"""An upstream that costs next to nothing: canned OpenAI answers from one asyncio protocol.

`python tests/bench/relay/stub.py` prints its port. The model's name picks the answer: `burst` and
`paced` stream 64 chunks, at once or 5 ms apart; anything else, or no `stream`, is a JSON answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import uvloop

CHUNKS = 64
PACE_S = 0.005

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SAID = "The quick brown fox jumps over the lazy dog while the band plays on and on. " * 4


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _reply() -> bytes:
    usage = {"prompt_tokens": 40, "completion_tokens": 64, "total_tokens": 104}
    message = {"role": "assistant", "content": _SAID, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = _json(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1790000000,
            "model": "stub",
            "choices": [choice],
            "usage": usage,
        }
    )
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({"choices": [choice]})


def _event(members: dict[str, Any]) -> bytes:
    head = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "stub",
        "system_fingerprint": "fp_0123456789",
    }
    data = b"data: " + _json({**head, **members}) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _stream() -> list[bytes]:
    words = [_frame({"content": f" word{at}"}) for at in range(CHUNKS - 2)]
    first = _frame({"role": "assistant", "content": ""})
    return [first, *words, _frame({}, "stop")]


_USAGE = _event(
    {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 64, "total_tokens": 104}}
)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_REPLY = _reply()
_FRAMES = _stream()
_MODELS = _json({"object": "list", "data": [{"id": "stub", "object": "model", "owned_by": "me"}]})
_OTHER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_MODELS),
    _MODELS,
)


class Stub(asyncio.Protocol):
    """One connection; requests one after the other."""

    def __init__(self) -> None:
        self._pending = b""
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._pending, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._pending) < size:
                return
            request, self._pending = self._pending[:size], self._pending[size:]
            self._answer(request, end)

    def _answer(self, request: bytes, end: int) -> None:
        if request.startswith(b"GET"):
            self._transport.write(_OTHER)
            return
        body = request[end:]
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self._transport.write(_REPLY)
            return
        asked = _USAGE if b"include_usage" in body else b""
        if b"paced" in body:
            self._transport.write(_STREAM_HEAD)
            self._next(0, asked, self._loop.time())
        else:
            self._transport.write(b"".join((_STREAM_HEAD, *_FRAMES, asked, _END)))

    def _next(self, at: int, asked: bytes, began: float) -> None:
        if self._transport.is_closing():
            return
        if at == CHUNKS:
            self._transport.write(asked + _END)
            return
        self._transport.write(_FRAMES[at])
        self._loop.call_at(began + (at + 1) * PACE_S, self._next, at + 1, asked, began)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
