"""The ring of snapshots, and what it brings back: after an eviction, a crash, another model."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
from pathlib import Path
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.options import LlamaCppOptions
from backends.engine.protocol import Job
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from backends.engine.snapshots import START, Snapshots
from gateway.core.chat import ChatRequest, Endpoint, Feature, Sampling
from gateway.core.events import TextDelta, UsageReport
from gateway.core.exchange import Call
from tests.fakes.decoder import FakeDecoder, answer

SAME = b"f" * 32


def state(tokens: tuple[int, ...], size: int) -> memoryview:
    return memoryview(bytes((sum(tokens) + i) % 251 for i in range(size)))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(200, 4000),
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "bücher"]),
            st.lists(st.integers(0, 3), min_size=1, max_size=12),
            st.integers(0, 900),
        ),
        max_size=40,
    ),
)
def test_the_ring_keeps_what_it_says(room: int, puts: list[tuple[str, list[int], int]]) -> None:
    """Whatever is put in, every snapshot that is found has the bytes that were put in under its
    tenant and tokens; a reader that comes later finds the same ones."""
    with mmap.mmap(-1, START + room) as memory:
        ring = Snapshots(memory, SAME)
        for tenant, tokens, size in puts:
            line = tuple(tokens)
            before = ring.match(tenant, line)[0]
            kept = ring.put(tenant, line, state(line, size))
            assert not (kept and before == len(line))
            for reader in (ring, Snapshots(memory, SAME)):
                assert len(reader) == len(ring)
                same, found = reader.match(tenant, line)
                if kept:
                    assert found is not None and same == len(line)
                if found is not None:
                    assert found.tenant == tenant and found.tokens[:same] == line[:same]
                    with reader.state(found) as view:
                        assert view == state(found.tokens, len(view))
            assert ring.used <= room


def test_another_model_finds_nothing() -> None:
    """A fingerprint that differs empties the ring."""
    with mmap.mmap(-1, START + 1000) as memory:
        assert Snapshots(memory, SAME).put("", (1, 2), state((1, 2), 10))
        assert len(Snapshots(memory, SAME)) == 1
        assert len(Snapshots(memory, b"g" * 32)) == 0
        assert len(Snapshots(memory, SAME)) == 0


@given(st.binary(min_size=0, max_size=200), st.integers(0, 1200))
def test_a_damaged_ring_is_no_danger(garbage: bytes, at: int) -> None:
    """Bytes of anybody's in the ring lose snapshots at most: reading it ends, within the memory."""
    with mmap.mmap(-1, START + 1000) as memory:
        ring = Snapshots(memory, SAME)
        for i in range(5):
            ring.put("t", tuple(np.arange(i * 3, i * 3 + 5).tolist()), state((i,), 100))
        at = START + at % 1000 if at > 56 else at
        garbage = garbage[: len(memory) - at]
        memory[at : at + len(garbage)] = garbage
        for kept in [Snapshots(memory, SAME).match("t", (3, 4, 5))[1]]:
            assert kept is None or kept.end <= len(memory)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(60, 900))
def test_restored_sequences_go_on_as_if_computed(seed: int, room: int) -> None:
    """With few cells and any ring, every answer is the one that the model gives alone, no cell is
    lost, and tenants share nothing."""
    random = Random(seed)
    with mmap.mmap(-1, START + room) as memory:
        decoder = FakeDecoder(cells=300, batch=32, outputs=40)
        limits = Limits(context=120, cells=300, slots=3, batch=32, chunk=16, cached=2, optimism=0.3)
        scheduler = Scheduler(decoder, limits, snapshots=Snapshots(memory, SAME))
        beginnings = [[random.randrange(15) for _ in range(70)] for _ in range(4)]
        asked: dict[int, list[int]] = {}
        told: dict[int, list[int]] = {}
        for id in range(1, 30):
            turn = [random.randrange(15) for _ in range(random.randrange(1, 20))]
            asked[id] = random.choice(beginnings)[: random.randrange(40, 71)] + turn
            scheduler.submit(
                Job(id=id, tokens=tuple(asked[id]), max_tokens=5, tenant=random.choice("ab"))
            )
            while not scheduler.idle and (random.random() < 0.8 or id == 29):
                for output in scheduler.step():
                    assert output.error is None
                    told.setdefault(output.id, []).extend(output.tokens)
        assert told == {id: answer(prompt, 5) for id, prompt in asked.items()}
        assert decoder.used == scheduler.cells.used == scheduler.cells.cached


async def ask(backend: LlamaCppBackend, prompt: str) -> tuple[str, int]:
    """(text, cached tokens)"""
    request = ChatRequest(
        endpoint=Endpoint.COMPLETION,
        dialect="openai_completions",
        model="m",
        prompt=prompt,
        sampling=Sampling(max_tokens=8, temperature=0.0),
        features=frozenset({Feature.COMPLETION}),
        body={},
    )
    text, cached = "", 0
    async for event in backend.stream(request, Call(id="test")):
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, UsageReport):
            cached = event.usage.cached_tokens
    return text, cached


def test_a_conversation_comes_back_after_a_model_swap(bundled_target: Path) -> None:
    """Evicted, or its worker ended or killed: the next turn finds its beginning, and the answer is
    the same."""
    story = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(12))
    other = "".join(f"class C{i}:\n    value = {i * i}\n\n" for i in range(12))

    async def main() -> None:
        options = LlamaCppOptions(
            kind="llama_cpp", model="bundled:target", cells=256, slots=1, snapshot_mib=16
        )
        backend = LlamaCppBackend("m", options, Resources())
        try:
            await backend.start()
            text, cached = await ask(backend, story)
            assert cached == 0
            await ask(backend, other)
            stats = await backend.engine.stats()
            assert stats["evictions"] >= 1 and stats["snapshots_saved"] >= 1
            again, cached = await ask(backend, story)
            assert again == text and cached > 100
            assert (await backend.engine.stats())["snapshots_restored"] >= 1
            await backend.engine.aclose()
            await backend.engine.start()
            again, cached = await ask(backend, story)
            assert again == text and cached > 100
            assert backend.engine.pid is not None
            os.kill(backend.engine.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                while backend.engine.ready is not None:
                    await asyncio.sleep(0.01)
                while backend.engine.ready is None:
                    await asyncio.sleep(0.01)
            again, cached = await ask(backend, other)
            assert cached > 100
        finally:
            await backend.aclose()

    asyncio.run(main())
