"""The local tier as the gateway sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.base import Backend, Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.options import LlamaCppOptions, model_path
from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature, Message, Sampling, Snippet
from gateway.core.errors import ContextExceeded, EngineFailed, InvalidRequest
from gateway.core.events import Finish, collect
from gateway.core.exchange import Call
from gateway.core.routing import Tier
from tests.fakes.gguf_models import write_model

CALL = Call(id="test")
GREEDY = Sampling(max_tokens=24, temperature=0.0)


def make(model: str | Path, **more: object) -> LlamaCppBackend:
    options = LlamaCppOptions(kind="llama_cpp", model=str(model), **more)  # type: ignore[arg-type]
    return LlamaCppBackend("local", options, Resources())


@asynccontextmanager
async def running(model: str | Path, **more: object) -> AsyncIterator[LlamaCppBackend]:
    backend = make(model, **more)
    try:
        await backend.start()
        health = await backend.health()
        assert health.ok, health.detail
        yield backend
    finally:
        await backend.aclose()


def chat(text: str = "Hello", sampling: Sampling = GREEDY) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="test",
        model="local",
        messages=(Message(role="user", text=text),),
        sampling=sampling,
    )


def complete(
    prompt: str | tuple[int, ...], sampling: Sampling = GREEDY, **more: object
) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.COMPLETION,
        dialect="test",
        model="local",
        prompt=prompt,
        sampling=sampling,
        **more,  # type: ignore[arg-type]
    )


async def answer(backend: LlamaCppBackend, request: ChatRequest) -> Completion:
    events = backend.stream(request, CALL)
    try:
        return await collect(events)
    finally:
        await events.aclose()


def test_completion_of_text_and_of_tokens(stories: Path) -> None:
    """A prompt as text and as its token ids give the same answer, with exact usage."""

    async def main() -> None:
        async with running(stories) as backend:
            assert isinstance(backend, Backend)
            said = await answer(backend, complete("Once upon a time"))
            assert said.choices[0].text.startswith(", there was a little girl named Lily.")
            assert said.choices[0].finish_reason == "length"
            assert said.usage is not None
            assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (5, 24)
            ids = await backend.prompt(complete("Once upon a time"))
            assert await answer(backend, complete(ids)) == said

    asyncio.run(main())


def test_what_routing_may_know(stories: Path) -> None:
    """Once started, the upstream states its context, revision and abilities."""

    async def main() -> None:
        async with running(stories, zone="machine", watts=15.0) as backend:
            upstream = backend.upstream
            assert (upstream.context, upstream.tier) == (512, Tier.LOCAL)
            assert upstream.revision == "6749ada6b5e308f1"
            assert upstream.created > 0
            assert Feature.FIM not in upstream.features
            assert {Feature.TOOLS, Feature.JSON_MODE, Feature.GRAMMAR} <= upstream.features
            assert await backend.count(complete("Once upon a time")) == 5

    asyncio.run(main())


def test_a_prompt_that_is_too_long_is_refused(stories: Path) -> None:
    """Nothing is cut: the error gives both numbers, in OpenAI's code."""

    async def main() -> None:
        async with running(stories) as backend:
            with pytest.raises(ContextExceeded, match=r"512 .* 600") as caught:
                await answer(backend, complete((5,) * 600))
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
            with pytest.raises(ContextExceeded) as caught:
                await answer(backend, chat("word " * 600))
            assert caught.value.param == "messages"

    asyncio.run(main())


def test_max_tokens_ends_with_the_context(stories: Path) -> None:
    """More tokens than there is room for are asked often: the answer then ends with `length`."""

    async def main() -> None:
        async with running(stories) as backend:
            sampling = Sampling(max_tokens=100_000, temperature=0.0)
            said = await answer(backend, complete((5,) * 500, sampling))
            assert said.usage is not None and said.usage.total_tokens <= 512

    asyncio.run(main())


def test_no_tokens_are_so_many_choices_too(stories: Path) -> None:
    """`max_tokens` 0 with `n` ends each of the choices, not the first one alone."""

    async def main() -> None:
        async with running(stories) as backend:
            nothing = Sampling(max_tokens=0)
            request = complete("Once", nothing, body={"n": 3, "max_tokens": 0})
            events = [event async for event in backend.stream(request, CALL)]
            ends = [(e.choice, e.reason) for e in events if isinstance(e, Finish)]
            assert ends == [(0, "length"), (1, "length"), (2, "length")]

    asyncio.run(main())


def test_a_context_beyond_training_is_allowed_with_a_warning(
    stories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator may go beyond the trained context, and is told what that means."""

    async def main() -> None:
        with caplog.at_level(logging.WARNING):
            async with running(stories, context=1024) as backend:
                assert backend.upstream.context == 1024
        assert "more than the 512 tokens" in caplog.text

    asyncio.run(main())


def test_a_reader_who_leaves_stops_the_engine(stories: Path) -> None:
    """Closing the stream cancels the sequence in the worker."""

    async def main() -> None:
        async with running(stories) as backend:
            events = backend.stream(complete("Once", Sampling(temperature=0.0)), CALL)
            await anext(events)
            await events.aclose()
            async with asyncio.timeout(10):
                while (await backend.engine.stats())["running"]:
                    await asyncio.sleep(0.01)
            assert (await backend.engine.stats())["cancelled"] == 1

    asyncio.run(main())


def test_a_missing_file_is_a_matter_of_health(tmp_path: Path) -> None:
    """A model that is not there does not stop the gateway: health and errors name it."""

    async def main() -> None:
        backend = make(tmp_path / "absent.gguf")
        try:
            await backend.start()
            health = await backend.health()
            assert not health.ok and "absent.gguf" in health.detail
            with pytest.raises(EngineFailed, match=r"absent\.gguf"):
                await answer(backend, chat())
        finally:
            await backend.aclose()

    asyncio.run(main())


def test_a_hole_needs_a_model_that_fills_it(stories: Path) -> None:
    """Without fill-in-the-middle tokens a suffix is refused, not ignored."""

    async def main() -> None:
        async with running(stories) as backend:
            with pytest.raises(InvalidRequest) as caught:
                await answer(backend, complete("a", suffix="b"))
            assert caught.value.param == "suffix"

    asyncio.run(main())


def test_names_of_the_bundled_pair() -> None:
    """`bundled:draft` is the file that we ship; other names are below the model folder."""
    assert model_path("bundled:draft", Path("m")).name == "tandem-demo-draft-q8_0.gguf"
    assert model_path("x.gguf", Path("m")) == Path("m/x.gguf")


def test_the_bundled_pair_chats_and_fills(bundled_target: Path) -> None:
    """The shipped target answers a chat turn, and a hole between two pieces of a file."""

    async def main() -> None:
        async with running("bundled:target", context=512) as backend:
            assert Feature.FIM in backend.upstream.features
            assert backend.upstream.prompt_ceiling
            said = await answer(backend, chat())
            assert said.choices[0].finish_reason in ("stop", "length")
            assert "<|" not in said.choices[0].text
            hole = ChatRequest(
                endpoint=Endpoint.INFILL,
                dialect="test",
                model="local",
                prompt="def add(a, b):\n    return ",
                suffix="\n\n\nprint(add(1, 2))\n",
                snippets=(Snippet(text="import os\n", filename="other.py"),),
                sampling=Sampling(max_tokens=16),
            )
            first, again = await answer(backend, hole), await answer(backend, hole)
            assert first.choices == again.choices  # greedy unless asked otherwise
            assert first.choices[0].finish_reason is not None
            long = ChatRequest(
                endpoint=Endpoint.INFILL,
                dialect="test",
                model="local",
                prompt="x = 1\n" * 2000,
                suffix="y = 2\n" * 2000,
                sampling=Sampling(max_tokens=16),
            )
            assert len(await backend.prompt(long)) <= 512 - 16
            assert (await answer(backend, long)).choices[0].finish_reason is not None

    asyncio.run(main())


def test_the_bundled_pair_shares_its_vocabulary(bundled_draft: Path, bundled_target: Path) -> None:
    """Draft and target have one tokenizer, so that ids of one mean the same to the other."""

    async def main() -> None:
        async with (
            running("bundled:draft", context=256) as draft,
            running("bundled:target", context=256) as target,
        ):
            assert draft.vocabulary is not None and target.vocabulary is not None
            assert draft.vocabulary.tokenizer_sha == target.vocabulary.tokenizer_sha
            assert await draft.prompt(chat()) == await target.prompt(chat())

    asyncio.run(main())


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_quantized_cells_answer(bundled_target: Path, kv: str) -> None:
    """The model loads with each type of KV cells and answers."""

    async def main() -> str:
        async with running(bundled_target, kv=kv) as backend:
            assert (await backend.health()).ok
            asked = complete("def add(a, b):\n    return ")
            return (await answer(backend, asked)).choices[0].text

    assert asyncio.run(main())


def test_cells_that_a_model_cannot_have_are_refused_with_a_reason(tmp_path: Path) -> None:
    """Heads of 48 and q8_0 cells: health says why, where llama.cpp says only that it failed."""
    odd = {"llama.attention.key_length": 48, "llama.attention.value_length": 48}
    path = write_model(tmp_path / "odd.gguf", "llama", meta=odd)

    async def main() -> None:
        backend = make(path, kv="q8_0")
        try:
            await backend.start()
            health = await backend.health()
            assert not health.ok
            assert "multiple of 32" in health.detail
        finally:
            await backend.aclose()

    asyncio.run(main())


def test_a_missing_part_of_a_split_model_is_a_matter_of_health(tmp_path: Path) -> None:
    """The part that is missing is named; nothing is started."""
    path = write_model(tmp_path / "m-00001-of-00002.gguf", "llama")

    async def main() -> None:
        backend = make(path)
        await backend.start()
        assert "m-00002-of-00002.gguf is missing" in (await backend.health()).detail
        await backend.aclose()

    asyncio.run(main())


def test_bits_are_known_to_routing(bundled_draft: Path) -> None:
    """The bits a weight takes come from the file: 8.5 for Q8_0, with a few norms in float."""

    async def main() -> None:
        async with running(bundled_draft) as backend:
            assert backend.upstream.bits == pytest.approx(8.5, abs=0.1)

    asyncio.run(main())
