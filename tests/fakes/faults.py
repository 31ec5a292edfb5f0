"""What an upstream can do wrong, by name: each fault is a script for `FakeUpstream`.

A fault is asked for as `name` or `name:argument`, in a test as `fault("reset-at:40")`, by hand as
`python -m tests.fakes.misbehaving`. Those that go wrong midway have said "one" by then.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.fakes.upstream import (
    DONE,
    Conversation,
    Script,
    answer,
    chunk,
    data,
    finish,
    reply,
    role,
    sse,
    usage,
)

FIRST = "one"
PACE_S = 0.02
GOOD = (role(), chunk(FIRST), chunk(" two"), finish(), usage(3, 2), DONE)


@dataclass(frozen=True, slots=True)
class Fault:
    """`make` turns the argument, or "", into a script. `about` is the line that `--list` prints."""

    make: Callable[[str], Script]
    about: str


FAULTS: dict[str, Fault] = {}


def fault(plan: str) -> Script:
    """The script of a `name:argument`. Raises ValueError for a name nobody knows."""
    name, _, argument = plan.partition(":")
    if name not in FAULTS:
        raise ValueError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
    return FAULTS[name].make(argument)


def _with_argument(about: str) -> Callable[[Callable[[str], Script]], Callable[[str], Script]]:
    def add(make: Callable[[str], Script]) -> Callable[[str], Script]:
        FAULTS[make.__name__.rstrip("_").replace("_", "-")] = Fault(make, about)
        return make

    return add


def _plain(about: str) -> Callable[[Script], Script]:
    def add(script: Script) -> Script:
        name = script.__name__.replace("_", "-")  # type: ignore[attr-defined]
        FAULTS[name] = Fault(lambda argument: script, about)
        return script

    return add


def wants_stream(conversation: Conversation) -> bool:
    return conversation.request.method == "POST" and bool(conversation.request.json.get("stream"))


async def _begun(conversation: Conversation) -> None:
    """A stream that has said its role and its first word, and had time to be read."""
    await conversation.stream_head()
    await conversation.chunk(role() + chunk(FIRST))
    await asyncio.sleep(PACE_S)  # a reset would discard what the other side has not read


def _after_beginning(step: Callable[[Conversation], Awaitable[None]]) -> Script:
    async def script(conversation: Conversation) -> None:
        await _begun(conversation)
        await step(conversation)

    return script


# What is right.


@_plain("a right answer, streamed or whole")
async def ok(conversation: Conversation) -> None:
    script = sse(*GOOD) if wants_stream(conversation) else answer(f"{FIRST} two")
    await script(conversation)


# Silence.


@_plain("takes the request and says nothing")
async def hang_headers(conversation: Conversation) -> None:
    await conversation.hang()


@_plain("half of a response head, then silence")
async def hang_in_head(conversation: Conversation) -> None:
    await conversation.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
    await conversation.hang()


@_plain("head and role chunk, then silence")
async def hang_before_content(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(role())
    await conversation.hang()


@_plain("a word, then silence")
async def hang_midway(conversation: Conversation) -> None:
    await _begun(conversation)
    await conversation.hang()


# Connections that end.


@_plain("closes after the request, without a byte")
async def close_unanswered(conversation: Conversation) -> None:
    conversation.writer.close()


@_plain("answers, keeps the connection, and closes it at the next request on it")
async def stale(conversation: Conversation) -> None:
    await ok(conversation)
    await conversation.reader.readuntil(b"\r\n\r\n")
    conversation.keep_alive = False


@_plain("RST after the request, without a byte")
async def reset_unanswered(conversation: Conversation) -> None:
    conversation.reset()


@_with_argument("RST after N bytes of a right stream, its head included")
def reset_at(argument: str) -> Script:
    async def script(conversation: Conversation) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        await conversation.raw((head + b"".join(GOOD))[: int(argument or 100)])
        await asyncio.sleep(PACE_S)
        conversation.reset()

    return script


@_plain("RST after a word")
async def reset_midway(conversation: Conversation) -> None:
    await _begun(conversation)
    conversation.reset()


@_plain("closes within a chunk of its body")
async def cut_chunk(conversation: Conversation) -> None:
    await _begun(conversation)
    await conversation.raw(b"40\r\ndata: {")
    conversation.writer.close()


@_plain("a body until close, closed without finish or [DONE]")
async def silent_end(conversation: Conversation) -> None:
    await conversation.head(content_type="text/event-stream", connection="close")
    await conversation.raw(role() + chunk(FIRST))


# Bytes.


@_plain("an event that is no JSON, after a word")
async def malformed(conversation: Conversation) -> None:
    await _begun(conversation)
    await conversation.chunk(b'data: {"choices": [{"delta": {"content": "evil\n\n')
    await conversation.chunk(chunk("never"))
    await conversation.hang()


@_plain("an event that is no JSON, before any word")
async def malformed_first(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(b"data: {oops\n\n" + chunk("never"))
    await conversation.hang()


@_plain("an event that is not UTF-8, after a word")
async def not_utf8(conversation: Conversation) -> None:
    await _begun(conversation)
    await conversation.chunk(b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n')
    await conversation.hang()


@_with_argument("a right stream with emoji, CRLF lines and one byte a write")
def split(argument: str) -> Script:
    ending = {"": b"\r\n", "lf": b"\n", "cr": b"\r"}[argument]

    async def script(conversation: Conversation) -> None:
        stream = b"".join((role(), chunk("naïve 😀 日本"), finish(), usage(3, 4), DONE))
        await conversation.stream_head()
        for at in stream.replace(b"\n", ending):
            await conversation.chunk(bytes([at]))
        await conversation.end()

    return script


@_plain("a line that never ends, after a word")
async def endless_line(conversation: Conversation) -> None:
    await _begun(conversation)
    while True:
        await conversation.chunk(b"data: " + b"x" * 16384)


@_plain("200 MB of blanks in 200 KB of gzip, unasked")
async def gzip_bomb(conversation: Conversation) -> None:
    kind = "text/event-stream" if wants_stream(conversation) else "application/json"
    await conversation.head(content_type=kind, content_encoding="gzip", connection="close")
    packed = gzip.compress(b" " * 1_000_000)
    for _ in range(200):
        await conversation.raw(packed)
    await conversation.hang()


@_with_argument("a whole answer of N bytes (40,000,000)")
def huge_body(argument: str) -> Script:
    async def script(conversation: Conversation) -> None:
        left = int(argument or 40_000_000)
        await conversation.head(content_type="application/json", content_length=str(left))
        while left > 0:
            part = min(left, 65536)
            await conversation.raw(b" " * part)
            left -= part

    return script


@_plain("a 503 whose body never ends")
async def endless_error(conversation: Conversation) -> None:
    await conversation.head(503, content_type="text/plain", connection="close")
    while True:
        await conversation.raw(b"x" * 8192)


# Answers that are none.


@_plain("a login page under 200")
async def html(conversation: Conversation) -> None:
    await conversation.head(content_type="text/html", connection="close")
    await conversation.raw(b"<html>please sign in</html>")


@_plain("an error document under 200")
async def json_error(conversation: Conversation) -> None:
    await reply(200, {"error": {"message": "no capacity"}})(conversation)


@_plain("an error event after a word")
async def error_event(conversation: Conversation) -> None:
    await _begun(conversation)
    await conversation.chunk(data({"error": {"message": "out of memory"}}) + DONE)
    await conversation.end()


@_plain("nothing but [DONE]")
async def only_done(conversation: Conversation) -> None:
    await sse(DONE)(conversation)


@_with_argument("a redirect (307) to the address given, or to its own host")
def redirect(argument: str) -> Script:
    async def script(conversation: Conversation) -> None:
        target = argument or f"http://{conversation.request.headers['host']}/v1/elsewhere"
        await conversation.head(307, location=target, content_length="0")
        conversation.keep_alive = True

    return script


@_with_argument("an error of status N (500)")
def status(argument: str) -> Script:
    code = int(argument or 500)
    error = {"message": "the upstream's own words", "type": "their_type", "code": "their_code"}
    return reply(code, {"error": error})


@_with_argument("N times 503 (5), then right answers")
def burst(argument: str) -> Script:
    left = int(argument or 5)

    async def script(conversation: Conversation) -> None:
        nonlocal left
        left -= 1
        await (ok if left < 0 else status("503"))(conversation)

    return script


SPELLINGS: dict[str, dict[str, str]] = {
    "seconds": {"retry_after": "7"},
    "date": {"retry_after": "Fri, 31 Dec 2100 23:59:59 GMT"},
    "ms": {"retry_after_ms": "1500"},
    "azure-ms": {"x_ms_retry_after_ms": "2500"},
    "groq-tokens": {
        "x_ratelimit_limit_tokens": "6000",
        "x_ratelimit_remaining_tokens": "0",
        "x_ratelimit_reset_tokens": "7.66s",
    },
    "groq-requests": {
        "x_ratelimit_limit_requests": "14400",
        "x_ratelimit_remaining_requests": "0",
        "x_ratelimit_reset_requests": "2m59.56s",
    },
    "none": {},
}


@_with_argument(f"a 429 that says when in one spelling: {', '.join(SPELLINGS)}")
def throttled(argument: str) -> Script:
    headers = SPELLINGS[argument or "seconds"]
    error = {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}
    return reply(429, {"error": error}, **headers)


@_plain("a context-length 400 as OpenAI writes it")
async def too_long(conversation: Conversation) -> None:
    error = {
        "message": "This model's maximum context length is 8 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    await reply(400, {"error": error})(conversation)


# Alive, and saying nothing.


async def _comments(conversation: Conversation) -> None:
    while True:
        await conversation.chunk(b": still here\n\n")
        await asyncio.sleep(PACE_S)


async def _blanks(conversation: Conversation) -> None:
    while True:
        await conversation.chunk(chunk(""))
        await asyncio.sleep(PACE_S)


@_plain("comments for ever")
async def comments(conversation: Conversation) -> None:
    await conversation.stream_head()
    await _comments(conversation)


@_plain("empty deltas for ever")
async def blanks(conversation: Conversation) -> None:
    await conversation.stream_head()
    await _blanks(conversation)


FAULTS["comments-midway"] = Fault(
    lambda argument: _after_beginning(_comments), "a word, then comments for ever"
)
FAULTS["blanks-midway"] = Fault(
    lambda argument: _after_beginning(_blanks), "a word, then empty deltas for ever"
)


@_with_argument("a right stream, one byte every N seconds (0.05)")
def drip(argument: str) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        for at in b"".join(GOOD):
            await conversation.chunk(bytes([at]))
            await asyncio.sleep(float(argument or 0.05))
        await conversation.end()

    return script


@_with_argument("a word every N seconds (0.02), for ever")
def talk(argument: str) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.stream_head()
        while True:
            await conversation.chunk(chunk("word "))
            await asyncio.sleep(float(argument or PACE_S))

    return script
