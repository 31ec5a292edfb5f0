"""Damaged model files: they cost a sentence, never the gateway, and never a wait without end."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.base import Resources
from backends.engine import gguf
from backends.engine.backend import LlamaCppBackend
from backends.engine.options import LlamaCppOptions
from backends.engine.shape import shape
from gateway.cli import models_inspect
from gateway.core.chat import ChatRequest, Endpoint, Sampling
from gateway.core.errors import TandemError
from gateway.core.events import Finish
from gateway.core.exchange import Call
from gateway.core.routing import Zone
from tests.fakes.damage import damaged, tiny
from tests.fakes.gguf_models import write

AT_ONCE = 2
LIMIT_S = 60.0
"""Of one file, from the start of its processes to their end; usually half a second."""


ALWAYS = ("whole", "all ones")
EVERY = 3
"""Of the files whose header looks whole, one in so many is tried: each costs two processes."""


def believable(path: Path) -> bool:
    try:
        shape(gguf.read(path))
    except gguf.GgufError:
        return False
    return True


@dataclass(frozen=True)
class Outcome:
    """How one file went: whether it loaded, else why not; and how a short request ended."""

    name: str
    loaded: bool
    detail: str
    answer: str


def backend(path: Path, **more: object) -> LlamaCppBackend:
    options = LlamaCppOptions(
        kind="llama_cpp", zone=Zone.MACHINE, model=str(path), slots=1, threads=1, **more
    )  # type: ignore[arg-type]
    return LlamaCppBackend("subject", options, Resources())


@asynccontextmanager
async def started(path: Path, **more: object) -> AsyncIterator[LlamaCppBackend]:
    subject = backend(path, **more)
    try:
        await subject.start()
        yield subject
    finally:
        await subject.aclose()


async def answer(subject: LlamaCppBackend) -> str:
    """A finish reason, or the code of the error that came instead."""
    request = ChatRequest(
        model="subject",
        dialect="openai",
        prompt="abc",
        endpoint=Endpoint.COMPLETION,
        sampling=Sampling(max_tokens=4, temperature=0),
    )
    call = Call(id="1", tenant="default", zone=Zone.MACHINE, deadline=None)
    try:
        async with aclosing(subject.stream(request, call)) as events:
            return [event.reason async for event in events if isinstance(event, Finish)][0]
    except TandemError as error:
        return str(error.code)


async def outcomes(folder: Path) -> list[Outcome]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, path: Path) -> Outcome:
        async with turns, asyncio.timeout(LIMIT_S), started(path) as subject:
            health = await subject.health()
            return Outcome(name, health.ok, health.detail, await answer(subject))

    cases, whole_heads = [], 0
    for i, (name, raw) in enumerate(damaged(folder)):
        path = folder / f"case-{i}.gguf"
        path.write_bytes(raw)
        if name not in ALWAYS and believable(path):
            whole_heads += 1
            if whole_heads % EVERY:
                continue
        cases.append((name, path))
    return await asyncio.gather(*(one(name, path) for name, path in cases))


def test_no_damage_takes_the_gateway_down(llama_cpp: None) -> None:
    """Of some hundred damaged files each loads and answers, or is refused in words; none hangs,
    none raises, and the whole one works."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(outcomes(Path(folder)))
    assert len(found) >= 60
    by_name = {outcome.name: outcome for outcome in found}
    assert (by_name["whole"].loaded, by_name["whole"].answer) == (True, "length")
    for outcome in found:
        if outcome.loaded:
            assert outcome.answer in ("stop", "length", "engine_failed"), outcome
        else:
            assert outcome.answer == "engine_failed", outcome
            assert len(outcome.detail) > 20 and "Traceback" not in outcome.detail, outcome
            assert "\n" not in outcome.detail, outcome
    refused = [outcome for outcome in found if not outcome.loaded]
    assert len(refused) >= 40
    assert "not a number" in by_name["all ones"].detail


def test_inspect_never_shows_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tandem models inspect` reports a damaged file or says in one line what is wrong with it."""
    for i, (name, raw) in enumerate(damaged(tmp_path)):
        path = tmp_path / f"case-{i}.gguf"
        path.write_bytes(raw)
        asked = argparse.Namespace(file=path, table=False, slots=4)
        code = models_inspect.run(asked)
        out, err = capsys.readouterr()
        if code == 0:
            assert out.startswith("file "), name
        else:
            assert code == 1 and path.name in err and len(err.strip().splitlines()) == 1, name


def test_a_pinned_file_is_the_only_one_that_loads(llama_cpp: None, tmp_path: Path) -> None:
    """With `sha256` in the configuration one flipped weight is noticed, before the file is used;
    without, nobody can know."""
    path = tmp_path / "model.gguf"
    write(path, *tiny())
    raw = path.read_bytes()
    pin = hashlib.sha256(raw).hexdigest()

    async def main() -> tuple[str, str, bool]:
        async with started(path, sha256=pin) as subject:
            good = (await subject.health()).detail
        path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        async with started(path, sha256=pin) as subject:
            bad = (await subject.health()).detail
            assert subject.engine.pid is None and subject.prompts.vocabulary is None
        async with started(path) as subject:
            return good, bad, (await subject.health()).ok

    good, bad, unpinned = asyncio.run(main())
    assert good == ""
    assert "sha256" in bad and pin[:12] in bad
    assert unpinned


def test_more_cells_than_memory_is_refused_before_a_process_starts(
    llama_cpp: None, tmp_path: Path
) -> None:
    """KV cells that the machine cannot hold: the numbers are told, and nobody is killed for it."""
    path = tmp_path / "model.gguf"
    write(path, *tiny())

    async def main() -> str:
        async with started(path, cells=40_000_000_000) as subject:
            assert subject.engine.pid is None
            return (await subject.health()).detail

    assert "GiB" in asyncio.run(main())
