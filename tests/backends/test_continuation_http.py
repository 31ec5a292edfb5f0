"""Going on through the real OpenAIBackend: every cut of a stream, every way of asking on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Resources
from backends.continuation import ContinuationBackend, ContinuationOptions
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import UpstreamBroken
from gateway.core.events import Event, Finish, PartReport, TextDelta
from gateway.core.exchange import Call
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.upstream import DONE, finish, role, usage


class Server:
    """One that knows a whole answer and says what follows what it is given.

    `cut`: so many bytes of its stream come, and then an error, or, `silent`, nothing more.
    """

    def __init__(
        self,
        pieces: list[str],
        *,
        cut: int | None = None,
        silent: bool = False,
        repeats: bool = False,
    ) -> None:
        self.pieces = pieces
        self.cut = cut
        self.silent = silent
        self.repeats = repeats
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        chat = request.url.path.endswith("/chat/completions")
        given = _given(body) if chat else body["prompt"].removeprefix("prompt:")
        whole = "".join(self.pieces)
        assert whole.startswith(given)
        pieces = self.pieces
        if given and not self.repeats:
            pieces = [*whole[len(given) :]]
        stream = role() if chat else b""
        stream += b"".join(_frame(piece, chat=chat) for piece in pieces)
        stream += finish() + usage(3, len(pieces)) + DONE
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=_Cut(stream, self.cut, self.silent))


class _Cut(httpx.AsyncByteStream):
    def __init__(self, stream: bytes, cut: int | None, silent: bool) -> None:
        self._stream, self._cut, self._silent = stream, cut, silent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._stream[: self._cut]
        if self._cut is not None and not self._silent:
            raise httpx.ReadError("reset")


def _given(body: dict[str, Any]) -> str:
    last = body["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else ""


def _frame(piece: str, *, chat: bool) -> bytes:
    said = {"delta": {"content": piece}} if chat else {"text": piece}
    document = {"choices": [{"index": 0, **said}]}
    # Not as ASCII: a cut may then go through a character.
    raw = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + raw.encode() + b"\n\n"


def client(name: str, kind: str, server: Server, **options: Any) -> OpenAIBackend:
    made = OpenAIOptions(
        kind=kind, model="m", base_url="http://box.test/v1", timeouts={"idle": 5}, **options
    )
    return OpenAIBackend(name, made, Resources(transport=lambda: httpx.MockTransport(server)))


def request(endpoint: Endpoint, **fields: Any) -> ChatRequest:
    body: dict[str, Any] = {"model": "auto", "stream": True, "max_tokens": 999, **fields}
    if endpoint is Endpoint.CHAT:
        messages = [{"role": "user", "content": "hi"}]
        return OpenAIChat().decode({**body, "messages": messages}, {})
    return OpenAICompletions().decode({**body, "prompt": "prompt:"}, {})


def answer(
    first: Server, second: Server, kind: str, asked: ChatRequest
) -> tuple[list[Event], UpstreamBroken | None]:
    async def story() -> tuple[list[Event], UpstreamBroken | None]:
        parts = {"a": client("a", "vllm", first), "b": client("b", kind, second)}
        options = ContinuationOptions(kind="continuation", of=tuple(parts))
        backend = ContinuationBackend("on", options, Resources(backends=parts))
        events: list[Event] = []
        stream = backend.stream(asked, Call(id="t"))
        try:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before an error is wanted
        except UpstreamBroken as error:
            return events, error
        finally:
            await stream.aclose()
            for part in parts.values():
                await part.aclose()
        return events, None

    return asyncio.run(story())


def check_whole(events: list[Event], error: UpstreamBroken | None, whole: str) -> None:
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert error is None
    assert said == whole
    assert [event.reason for event in events if isinstance(event, Finish)] == ["stop"]
    assert not any(event.frame for event in events)


WAYS = {"vllm": False, "groq": False, "llama-server": False, "mistral": True, "sglang": False}
"""Kinds that can be asked for a rest, and whether the one here says the beginning again."""


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("kind", WAYS)
def test_every_byte_of_a_stream(kind: str, silent: bool) -> None:
    """Reset or ended anywhere, in a character or an event: nothing is lost, nothing doubled."""
    pieces = ["Grüße,", "  \n", "\nein ", "🦆", " sagt", ":\t", "ha", " ha", " ha ha ha ha \n"]
    asked = request(Endpoint.CHAT)
    probe = Server(pieces)
    answer(probe, probe, kind, asked)
    size = len(
        role() + b"".join(_frame(p, chat=True) for p in pieces) + finish() + usage(3, 9) + DONE
    )
    resumed = 0
    for cut in range(size):
        first = Server(pieces, cut=cut, silent=silent)
        second = Server(pieces, repeats=WAYS[kind])
        events, error = answer(first, second, kind, asked)
        check_whole(events, error, "".join(pieces))
        resumed += any(isinstance(e, PartReport) and e.result == "cut" for e in events)
    assert resumed > size / 2


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
        min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
    kind=st.sampled_from(["vllm", "mistral"]),
    endpoint=st.sampled_from([Endpoint.CHAT, Endpoint.COMPLETION]),
)
def test_any_text_any_cut(pieces: list[str], share: float, kind: str, endpoint: Endpoint) -> None:
    """Whatever the text, and however many blanks or repetitions it has."""
    if endpoint is Endpoint.COMPLETION:
        kind = "vllm"
    size = sum(len(_frame(piece, chat=endpoint is Endpoint.CHAT)) for piece in pieces)
    first = Server(pieces, cut=int(share * size))
    second = Server(pieces, repeats=WAYS[kind])
    events, error = answer(first, second, kind, request(endpoint))
    check_whole(events, error, "".join(pieces))


def cut_after_text(text: str, kind: str, endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> Any:
    """The body that asks `kind` for the rest."""
    chat = endpoint is Endpoint.CHAT
    cut = len(role()) * chat + len(_frame(text, chat=chat))
    second = Server([text, "rest"], repeats=WAYS.get(kind, False))
    events, error = answer(
        Server([text, "rest"], cut=cut), second, kind, request(endpoint, **fields)
    )
    check_whole(events, error, text + "rest")
    return second.asked[0]


def test_how_each_is_asked() -> None:
    """A flag, a mark on the message, or the message alone; a text goes on as a longer prompt."""
    turn = {"role": "assistant", "content": "So far"}
    hi = {"role": "user", "content": "hi"}
    body = cut_after_text("So far ", "vllm", temperature=0.3, seed=5)
    assert body["messages"] == [hi, turn]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.3, 5, 997)
    assert cut_after_text("So far", "groq")["messages"] == [hi, turn]
    assert "continue_final_message" not in cut_after_text("So far", "groq")
    assert cut_after_text("So far", "mistral")["messages"] == [hi, {**turn, "prefix": True}]
    body = cut_after_text("So far ", "tgi", Endpoint.COMPLETION)
    assert body["prompt"] == "prompt:So far "


def test_who_can_be_asked() -> None:
    """Chats go on only where a page says how, or an operator; DeepSeek's at one address only."""

    def continues(kind: str, **options: Any) -> frozenset[Endpoint]:
        made = OpenAIOptions(kind=kind, model="m", **options)
        return OpenAIBackend("x", made, Resources()).upstream.continues

    text, both = {Endpoint.COMPLETION}, {Endpoint.COMPLETION, Endpoint.CHAT}
    assert continues("openai", api_key="k") == text
    assert continues("openai", base_url="http://box.test") == text
    assert continues("openai", base_url="http://box.test", continuation="trailing") == both
    assert continues("vllm", base_url="http://box.test", continuation="none") == text
    assert continues("deepseek", api_key="k") == text
    assert continues("deepseek", base_url="https://api.deepseek.com/beta") == both


def test_an_answer_that_repeats_itself_keeps_its_turns() -> None:
    """Where a server is known not to repeat what it was given, nothing is taken off."""
    for kind in ("vllm", "groq"):
        cut_after_text("ha ", kind)
        pieces = ["ha ha ", "ha ha ", "ha ha "]
        cut = len(role()) + len(_frame(pieces[0], chat=True))
        events, error = answer(
            Server(pieces, cut=cut), Server(pieces), kind, request(Endpoint.CHAT)
        )
        check_whole(events, error, "".join(pieces))
