"""What a worker and its helper have of the gateway's: as little as can be. Read from /proc."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.environment import plain
from backends.engine.options import LlamaCppOptions
from gateway.companion_process import CompanionProcess
from tests.fakes.damage import tiny
from tests.fakes.gguf_models import write
from tests.fakes.process import family

CANARY = "canary-3f9c2b"
SECRETS = (
    "OPENAI_API_KEY", "GROQ_API_KEY", "TANDEM_API_KEY", "REDIS_URL", "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN", "DATABASE_URL", "PYTHON_KEYRING_PASSWORD", "LLAMA_API_KEY", "http_proxy",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)


def proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def sockets(pid: int) -> list[str]:
    """The inodes of the sockets that a process has open."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return [link[8:-1] for link in links if link.startswith("socket:")]


def names() -> dict[str, list[str]]:
    """Unix sockets by inode, and what they are bound to."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {line.split()[6]: line.split()[7:] for line in lines}


@asynccontextmanager
async def processes(folder: Path) -> AsyncIterator[dict[str, int]]:
    """The children of one running model, by their module's last name."""
    path = folder / "model.gguf"
    write(path, *tiny())
    options = LlamaCppOptions(kind="llama_cpp", model=str(path), slots=2, threads=2)
    subject = LlamaCppBackend("subject", options, Resources())
    before = family(os.getpid())
    try:
        await subject.start()
        assert (await subject.health()).ok
        found = {}
        for pid in family(os.getpid()) - before:
            line = proc(pid, "cmdline").split(b"\0")
            found[line[2].decode().rpartition(".")[2]] = pid
        yield found
    finally:
        await subject.aclose()


def limits(pid: int) -> dict[str, str]:
    """Soft limits by name."""
    lines = proc(pid, "limits").decode().splitlines()[1:]
    return {line[:26].strip(): line[26:47].strip() for line in lines}


def test_no_secret_reaches_a_child(llama_cpp: None, secrets: None, tmp_path: Path) -> None:
    """Of ten secrets in our environment none is in a child's; what running takes is."""

    async def main() -> None:
        async with processes(tmp_path) as children:
            assert set(children) == {"worker", "prepare"}
            for pid in children.values():
                environment = proc(pid, "environ")
                assert CANARY.encode() not in environment
                assert b"PATH=" in environment
                assert b"GGML_NO_BACKTRACE=1" in environment

    asyncio.run(main())


def test_the_bundled_companion_gets_no_secret_but_its_own() -> None:
    """Only the key that was made for it, whatever else lies in the environment."""
    companion = CompanionProcess(dict.fromkeys(SECRETS, CANARY) | {"PATH": "/bin"})
    try:
        given = companion._env  # its one reader is the spawn of a whole gateway
        assert CANARY not in given.values()
        assert (given["PATH"], given["TANDEM_API_KEY"]) == ("/bin", companion.key)
    finally:
        asyncio.run(companion.aclose())


def test_settings_for_computing_pass() -> None:
    """An operator's CUDA and OpenMP settings reach the worker; unknown names do not."""
    given = {"CUDA_VISIBLE_DEVICES": "1", "OMP_PROC_BIND": "true", "LC_ALL": "C", "MY_TOKEN": "x"}
    assert plain(given) == {name: given[name] for name in given if name != "MY_TOKEN"}


def test_children_inherit_one_nameless_socket(llama_cpp: None, tmp_path: Path) -> None:
    """Its only socket is half of a pair, without a name to connect to; our listener is not among
    its files."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            os.set_inheritable(listener.fileno(), True)
            async with processes(tmp_path) as children:
                for pid in children.values():
                    (inode,) = sockets(pid)
                    assert names()[inode] == []

    asyncio.run(main())


def test_children_dump_no_core_and_go_first(llama_cpp: None, tmp_path: Path) -> None:
    """No core dump holds anybody's prompt, memory is bounded, and the kernel, short of it, takes
    the worker and not the gateway."""

    async def main() -> None:
        async with processes(tmp_path) as children:
            for pid in children.values():
                found = limits(pid)
                assert found["Max core file size"] == "1"
                assert found["Max address space"].isdecimal()
            assert int(proc(children["worker"], "oom_score_adj")) >= 500

    asyncio.run(main())


def test_a_bounded_worker_still_works_hard(llama_cpp: None, tmp_path: Path) -> None:
    """The bound leaves room for many threads and a file that is mapped: the model is loaded, and
    what the worker has mapped is below it."""

    async def main() -> None:
        async with processes(tmp_path) as children:
            pid = children["worker"]
            used = int(proc(pid, "statm").split()[0]) * os.sysconf("SC_PAGE_SIZE")
            assert used < int(limits(pid)["Max address space"]) < 64 << 30

    asyncio.run(main())
