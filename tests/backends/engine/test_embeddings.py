"""Embeddings of local models, with real weights."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.options import LlamaCppOptions
from backends.engine.protocol import Job
from gateway.core.chat import Completion, Feature
from gateway.core.errors import ContextExceeded, EngineFailed, InvalidRequest, Unsupported
from gateway.core.events import collect
from gateway.core.exchange import Call
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_embeddings import OpenAIEmbeddings
from tests.fakes.gguf_models import write_model

CALL = Call(id="test")
TEXTS = [
    "Hello",
    "x",
    "def add(a, b):\n    return a + b\n",
    "What is Tandem? It joins small local models and big remote ones. " * 12,
    *(f"Sentence number {i} says something else." for i in range(20)),
]
Floats = NDArray[np.float32]


@asynccontextmanager
async def running(model: str | Path, **more: Any) -> AsyncIterator[LlamaCppBackend]:
    options = LlamaCppOptions(kind="llama_cpp", model=str(model), **more)
    backend = LlamaCppBackend("local", options, Resources())
    try:
        await backend.start()
        health = await backend.health()
        assert health.ok, health.detail
        yield backend
    finally:
        await backend.aclose()


async def completion(backend: LlamaCppBackend, given: Any, **more: Any) -> Completion:
    request = OpenAIEmbeddings().decode({"model": "local", "input": given, **more}, {})
    async with aclosing(backend.stream(request, CALL)) as events:
        return await collect(events)


async def embed(backend: LlamaCppBackend, given: Any, **more: Any) -> list[Floats]:
    answer = await completion(backend, given, **more)
    return [np.frombuffer(vector, "<f4") for vector in answer.vectors]


@pytest.fixture
def bert(tmp_path: Path, llama_cpp: None) -> Path:
    return write_model(tmp_path / "bert.gguf", "bert")


@pytest.fixture(params=["bundled target", "bert"])
def model(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """A decoder that generates too, and an encoder."""
    if request.param == "bert":
        return request.getfixturevalue("bert"), {}
    return request.getfixturevalue("bundled_target"), {"embeddings": "mean", "slots": 2}


def test_alone_and_in_company(model: tuple[Path, dict[str, Any]]) -> None:
    """A text's vector is the same bytes alone, in a list, and beside other requests."""
    path, options = model

    async def main() -> None:
        async with running(path, **options) as backend:
            texts = TEXTS if "slots" in options else [text[:100] for text in TEXTS]
            alone = [(await embed(backend, text))[0] for text in texts]
            listed = await embed(backend, texts)
            beside = await asyncio.gather(*(embed(backend, text) for text in texts))
            for one, two, [three] in zip(alone, listed, beside, strict=True):
                assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
                assert one.tobytes() == two.tobytes() == three.tobytes()
            assert len({vector.tobytes() for vector in alone}) > len(texts) // 2

    asyncio.run(main())


def test_equals_the_library(model: tuple[Path, dict[str, Any]]) -> None:
    """Vectors are those of llama-cpp-python's own class, computed by hand for each text."""
    path, options = model
    from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama

    # The library itself cuts what is longer than a batch.
    reference = Llama(
        str(path),
        embedding=True,
        pooling_type=LLAMA_POOLING_TYPE_MEAN,
        n_ctx=0,
        flash_attn=True,
        verbose=False,
    )

    async def main() -> None:
        async with running(path, **options) as backend:
            texts = TEXTS if "slots" in options else [text[:100] for text in TEXTS]
            for text, vector in zip(texts, await embed(backend, texts), strict=True):
                theirs = np.array(reference.embed(text, normalize=True))
                assert np.abs(vector - theirs).max() < 1e-4

    try:
        asyncio.run(main())
    finally:
        reference.close()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_poolings(stories: Path, pooling: str) -> None:
    """The config says how tokens become one vector, and another pooling is another revision."""

    async def main() -> None:
        async with running(stories, embeddings=pooling) as backend:
            [whole] = await embed(backend, [[1, 403, 407, 261, 378]])
            [first] = await embed(backend, [[1]])
            assert (whole.tobytes() == first.tobytes()) == (pooling == "cls")
            assert backend.upstream.revision.endswith(f"-{pooling}")

    asyncio.run(main())


def test_tokens_are_counted_exactly(bundled_target: Path) -> None:
    """A text and its ids have one vector and one count; usage is the sum over all inputs."""

    async def main() -> None:
        async with running(bundled_target, embeddings="mean", slots=2) as backend:
            ids = [await backend.prompts.text(text) for text in TEXTS]
            texts = await completion(backend, TEXTS)
            tokens = await completion(backend, [list(each) for each in ids])
            assert texts == tokens
            assert texts.usage is not None
            assert texts.usage.prompt_tokens == sum(map(len, ids))
            assert texts.usage.completion_tokens == 0

    asyncio.run(main())


def test_dimensions(bundled_target: Path) -> None:
    """Fewer dimensions are the first ones at length one; more than there are is a 400."""

    async def main() -> None:
        async with running(bundled_target, embeddings="mean", slots=2) as backend:
            [whole] = await embed(backend, "Hello")
            [short] = await embed(backend, "Hello", dimensions=16)
            assert short == pytest.approx(whole[:16] / np.linalg.norm(whole[:16]), abs=1e-6)
            with pytest.raises(InvalidRequest, match=str(len(whole))) as caught:
                await embed(backend, "Hello", dimensions=len(whole) + 1)
            assert caught.value.param == "dimensions"

    asyncio.run(main())


def test_too_long_is_refused(model: tuple[Path, dict[str, Any]]) -> None:
    """A text longer than the context, as text or as ids, is refused and never cut."""
    path, options = model

    async def main() -> None:
        async with running(path, **options) as backend:
            context = backend.upstream.context or 0
            assert len(await embed(backend, [[7] * context])) == 1
            for given in ([7] * (context + 1), ["fine", "hello " * (context + 1)]):
                with pytest.raises(ContextExceeded) as caught:
                    await embed(backend, given)
                assert caught.value.param == "input"
            with pytest.raises(InvalidRequest) as other:
                await embed(backend, [10**6])
            assert other.value.param == "input"

    asyncio.run(main())


def test_a_model_that_generates_embeds_only_if_told(bundled_draft: Path) -> None:
    """Without `embeddings` in the config a decoder's card has none, and it refuses by `model`."""

    async def main() -> None:
        async with running(bundled_draft, slots=1) as backend:
            assert Feature.EMBEDDINGS not in backend.upstream.features
            with pytest.raises(Unsupported) as caught:
                await embed(backend, "Hello")
            assert caught.value.param == "model"

    asyncio.run(main())


def test_an_encoder_only_embeds(bert: Path) -> None:
    """A file that names a pooling offers embeddings and nothing else, and survives other jobs."""

    async def main() -> None:
        async with running(bert) as backend:
            assert backend.upstream.features == {Feature.EMBEDDINGS, Feature.TOKEN_INPUT}
            with pytest.raises(ContextExceeded):
                async for _ in await backend.engine.submit(Job(id=0, tokens=(5,), max_tokens=1)):
                    pass
            assert len(await embed(backend, "hello world")) == 1

    asyncio.run(main())


@pytest.mark.parametrize(("stored", "says"), [(4, "ranks texts"), (0, "says no pooling")])
def test_models_that_cannot(tmp_path: Path, llama_cpp: None, stored: int, says: str) -> None:
    """A re-ranker, or an encoder without a pooling, is not started and health says why."""
    path = write_model(tmp_path / "odd.gguf", "bert", meta={"bert.pooling_type": stored})

    async def main() -> None:
        options = LlamaCppOptions(kind="llama_cpp", model=str(path))
        backend = LlamaCppBackend("odd", options, Resources())
        try:
            await backend.start()
            health = await backend.health()
            assert not health.ok
            assert says in health.detail
            with pytest.raises(EngineFailed):
                await embed(backend, "hello")
        finally:
            await backend.aclose()
        if stored == 0:
            async with running(path, embeddings="cls") as told:
                assert len(await embed(told, "hello")) == 1

    asyncio.run(main())


def test_generating_goes_on_beside_them(bundled_target: Path) -> None:
    """While many texts are embedded an answer still comes, the same as without them."""

    async def main() -> None:
        async with running(bundled_target, embeddings="mean", slots=2) as backend:
            asked = OpenAIChat().decode(
                {
                    "model": "m",
                    "messages": [{"role": "user", "content": "What is Tandem?"}],
                    "max_tokens": 16,
                    "temperature": 0,
                },
                {},
            )

            async def answer() -> str:
                async with aclosing(backend.stream(asked, CALL)) as events:
                    return (await collect(events)).choices[0].text

            before = await answer()
            embedding = asyncio.create_task(embed(backend, TEXTS * 30))
            during = await answer()
            assert not embedding.done()
            assert during == before
            assert len(await embedding) == 30 * len(TEXTS)

    asyncio.run(main())


def test_leaving_ends_the_work(bundled_target: Path) -> None:
    """A request whose client has gone is dropped between two batches."""

    async def main() -> None:
        async with running(bundled_target, embeddings="mean", slots=2) as backend:
            texts = [[5] * 200] * 500
            leaving = asyncio.create_task(embed(backend, texts))
            async with asyncio.timeout(30):
                while not (await backend.engine.stats())["embedded_texts"]:
                    await asyncio.sleep(0.01)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                while backend.engine.busy:
                    await asyncio.sleep(0.01)
            assert (await backend.engine.stats())["embedded_texts"] < 500
            assert len(await embed(backend, "Hello")) == 1

    asyncio.run(main())


def test_a_dead_worker_is_told(bundled_draft: Path) -> None:
    """When the worker dies, who waits for vectors hears of it."""

    async def main() -> None:
        async with running(bundled_draft, embeddings="mean", slots=1) as backend:
            waiting = asyncio.create_task(embed(backend, [[5] * 200] * 500))
            async with asyncio.timeout(30):
                while not (await backend.engine.stats())["embedded_texts"]:
                    await asyncio.sleep(0.01)
            pid = backend.engine.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await waiting

    asyncio.run(main())
