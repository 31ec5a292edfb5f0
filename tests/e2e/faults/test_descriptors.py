"""Row 38: no file descriptor is left, for real: the running gateway's limit is lowered under it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fakes.fronting import CHAT, run
from tests.fakes.process import clean_env, serve
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish, role

CONFIG = """
upstreams:
  far: {kind: openai, profile: openai, base_url: "%s", api_key: "${KEY}", model: m}
"""
ASK = {"model": "far", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def without_files(pid: int, spare: int) -> Iterator[None]:
    """For the block, the process may have `spare` descriptors more than it has."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("no prlimit here")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_row_38_no_descriptor_left(tmp_path: Path) -> None:
    """A stream goes on while nobody can come in; when there are descriptors again everybody can,
    and none has leaked.
    """

    async def story() -> None:
        said = asyncio.Semaphore(1)  # nothing is sent on before the first word

        async def script(conversation: Conversation) -> None:
            await conversation.stream_head()
            await conversation.chunk(role())
            for word in ("one", " two", " three"):
                await said.acquire()
                await conversation.chunk(chunk(word))
            await conversation.chunk(finish())
            await conversation.chunk(DONE)
            await conversation.end()

        path = tmp_path / "tandem.yaml"
        async with FakeUpstream(script) as upstream:
            path.write_text(CONFIG % upstream.base_url)
            with serve("-c", str(path), env=clean_env(KEY="sk-x")) as gateway:
                await exhausted(gateway.process.pid, gateway.base_url, said)

    async def exhausted(pid: int, url: str, said: asyncio.Semaphore) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(base_url=url, timeout=30, limits=limits, trust_env=False) as http,
            http.stream("POST", CHAT, json=ASK) as answer,
        ):
            lines = answer.aiter_lines()
            assert await word(lines) == "one"
            before = files(pid)
            with without_files(pid, spare=4):
                address = httpx.URL(url)
                waiting = [
                    socket.create_connection((address.host, address.port or 80)) for _ in range(40)
                ]
                while files(pid) < before + 4:
                    await asyncio.sleep(0.01)
                with pytest.raises(httpx.TransportError):  # uvloop closes it, asyncio lets it wait
                    await http.get("/livez", timeout=0.5)
                said.release()
                assert await word(lines) == " two"
            assert (await http.get("/livez")).status_code == 200
            for each in waiting:
                each.close()
            said.release()
            assert await word(lines) == " three"
            assert [line async for line in lines if line][-1] == "data: [DONE]"
            while files(pid) > before:
                await asyncio.sleep(0.05)
            assert (await http.get("/readyz")).status_code == 200

    run(story())


async def word(lines: object) -> str:
    """The next text of a stream."""
    async for line in lines:  # type: ignore[attr-defined]
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                if text := choice["delta"].get("content"):
                    return str(text)
    raise AssertionError("the stream ended")
