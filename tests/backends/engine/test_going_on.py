"""The local engine goes on with an answer that somebody else began."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Resources
from backends.continuation import ContinuationBackend, ContinuationOptions
from backends.engine.backend import LlamaCppBackend
from backends.engine.llama import library
from backends.engine.llama.model import Model
from backends.engine.options import LlamaCppOptions
from backends.engine.prepare import Preparer
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling
from gateway.core.events import Event, Finish, PartReport, TextDelta, UsageReport
from gateway.core.exchange import Call
from tests.conftest import local_engine_missing
from tests.fakes.cutting import CuttingBackend

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=local_engine_missing() or ""
)

CALL = Call(id="test")
GREEDY = Sampling(max_tokens=40, temperature=0.0)


def local(name: str = "local", model: str = "bundled:target", **more: object) -> LlamaCppBackend:
    options = LlamaCppOptions(kind="llama_cpp", model=model, context=512, slots=2, **more)  # type: ignore[arg-type]
    return LlamaCppBackend(name, options, Resources())


def asked(endpoint: Endpoint, sampling: Sampling = GREEDY) -> ChatRequest:
    chat = endpoint is Endpoint.CHAT
    return ChatRequest(
        endpoint=endpoint,
        dialect="test",
        model="local",
        messages=(Message(role="user", text="How do I read a file in Python?"),) if chat else (),
        prompt="" if chat else "def read_lines(path):\n    ",
        sampling=sampling,
        features=frozenset({Feature(endpoint.value)}),
        stream=True,
    )


async def heard(backend: object, request: ChatRequest) -> list[Event]:
    async with aclosing(backend.stream(request, CALL)) as events:  # type: ignore[attr-defined]
        return [event async for event in events]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ends(events: list[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, Finish)]


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION])
def test_greedy_goes_on_as_if_nothing_had_happened(endpoint: Endpoint) -> None:
    """Cut after any text whose tokens are what the text alone would give, the answer is the same.

    Elsewhere the model reads other tokens than it wrote and may go on otherwise; always the text
    until the cut is kept, there is one finish, and no more tokens than asked for.
    """

    async def story() -> None:
        engine = local()
        await engine.start()
        try:
            request = asked(endpoint)
            whole = await heard(engine, request)
            pieces = [event for event in whole if isinstance(event, TextDelta)]
            prompt = await engine.prompt(request)
            same = 0
            for cut in range(1, len(pieces)):
                parts = {"a": CuttingBackend(engine, cut), "b": CuttingBackend(engine, None)}
                options = ContinuationOptions(kind="continuation", of=tuple(parts))
                backend = ContinuationBackend("on", options, Resources(backends=parts))
                said = await heard(backend, request)
                begun = text(pieces[:cut])  # type: ignore[arg-type]
                assert [r.result for r in said if isinstance(r, PartReport)] == ["cut"]
                assert text(said).startswith(begun)
                assert len(ends(said)) == 1
                (resumed,) = parts["b"].calls
                assert resumed.continues == begun
                read = await engine.prompt(resumed)
                assert read[: len(prompt)] == prompt
                told = sum(piece.tokens for piece in pieces[:cut])
                if len(read) - len(prompt) == told:
                    same += 1
                    assert text(said) == text(whole), cut
                    assert ends(said) == ends(whole)
                (usage,) = [e for e in said if isinstance(e, UsageReport)]
                assert usage.usage.completion_tokens <= 40
            assert same > len(pieces) / 2
        finally:
            await engine.aclose()

    asyncio.run(story())


def test_an_engine_that_is_killed_is_gone_on_for() -> None:
    """Row 26 with a second engine: kill -9 in mid-answer, and the client has the whole answer."""

    async def story() -> None:
        first, second = local("first"), local("second")
        await asyncio.gather(first.start(), second.start())
        try:
            request = asked(Endpoint.CHAT, replace(GREEDY, max_tokens=200, ignore_eos=True))
            whole = text(await heard(second, request))
            parts = {"first": first, "second": second}
            options = ContinuationOptions(kind="continuation", of=tuple(parts))
            backend = ContinuationBackend("on", options, Resources(backends=parts))
            events: list[Event] = []
            pid = first.engine.pid
            assert pid is not None
            async with aclosing(backend.stream(request, CALL)) as stream:
                async for event in stream:
                    events.append(event)
                    if pid and len(text(events)) > 40:
                        os.kill(pid, signal.SIGKILL)
                        pid = None
            cuts = [e for e in events if isinstance(e, PartReport)]
            assert [(cut.upstream, cut.result) for cut in cuts] == [("first", "cut")]
            assert text(events)[:40] == whole[:40]
            assert ends(events) == ["length"]
        finally:
            await asyncio.gather(first.aclose(), second.aclose())

    asyncio.run(story())


def test_a_text_in_the_middle_is_read_as_such(any_model: Path) -> None:
    """Its tokens say it and nothing else, in vocabularies that put a blank before a text too."""
    library.start()
    model = Model(any_model, vocab_only=True)
    preparer = Preparer(model)
    said = " there was  a\n\n little <s> 🦆, ünd"
    for at in range(len(said)):
        tokens = preparer.following(said[at:])
        assert b"".join(map(model.piece, tokens)).decode() == said[at:]
