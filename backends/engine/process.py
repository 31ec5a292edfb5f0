"""A child process that lives exactly as long as it should: started, spoken to, ended, never left.

Three nets, since any one can fail: the child asks the kernel to be killed when its parent dies, it
ends at the end-of-file of the inherited socket, and `Child.stop` kills what did not go by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from backends.engine.environment import plain
from backends.engine.protocol import Wire, encode, read

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_QUIET = {"GGML_NO_BACKTRACE": "1"}
"""With gdb installed an abort would start it, for seconds, and its output bury the reason."""


def die_with(parent: int) -> None:
    """In the child: have the kernel kill it when the thread that started it ends (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the kernel was asked


def arguments() -> tuple[socket.socket, str]:
    """In the child: its end of the socket and its argument; from here on it dies with its parent.

    SIGINT and SIGTERM are the gateway's affair: a Ctrl-C reaches the whole foreground group, and
    systemd stops every process of a unit at once, while the gateway wants to drain.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("argument")
    parsed = parser.parse_args()
    die_with(parsed.parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    no_core_dump()
    return socket.socket(fileno=parsed.fd), parsed.argument


def no_core_dump() -> None:
    """In the child: other people's prompts lie in its memory.

    1 byte and not 0: a kernel that hands dumps to a program (systemd-coredump, apport) does so
    whatever the limit is, except for this one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def bound_memory(headroom: int) -> None:
    """In the child: bound the address space to what is in use now and `headroom` bytes (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + headroom
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def prefer_as_oom_victim() -> None:
    """In the child: if memory runs out, this process goes, not the gateway."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        pass  # not Linux, or not allowed: a preference, no more


def ended_by(code: int) -> str:
    """A return code in words: SIGABRT says more than -6."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit {code}"
    except ValueError:
        return f"signal {-code}"


class Child:
    """`python -m MODULE --fd N --parent PID ARGUMENT` at the other end of a socketpair.

    The socket has no name, so nobody else can connect; the child inherits it and standard error,
    nothing more: no listening socket, no connection of a client's, no secret of the environment.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._words: deque[str] = deque(maxlen=20)
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def spawn(
        cls,
        module: str,
        argument: str,
        environment: Mapping[str, str],
        shared: tuple[int, ...] = (),
    ) -> Child:
        """Start it. To be called from the main thread: the kernel's net hangs on the thread.

        `shared`: descriptors that it inherits under the same numbers.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    "--fd",
                    str(theirs.fileno()),
                    "--parent",
                    str(os.getpid()),
                    argument,
                    pass_fds=(theirs.fileno(), *shared),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env={**plain(os.environ), **_QUIET, **environment, "PYTHONPATH": _path()},
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The end of its stderr, for an operator's eyes."""
        return " ".join(self._words)[-400:]

    def write(self, frame: Wire) -> None:
        """Send without waiting. Frames to a child that has gone are lost; `read` will say so."""
        if not self._writer.is_closing():
            self._writer.write(encode(frame))

    async def read(self) -> Wire | None:
        """The next frame; None when the child has gone. Raises FrameError."""
        return await read(self._reader)

    def kill(self) -> None:
        if self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                pass  # it has just gone by itself

    async def stop(self, grace: float = 0.0) -> int:
        """End it, by end-of-file within `grace` seconds, else killed; its return code."""
        self._writer.close()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        code = await self._process.wait()
        await self._listening
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass
        return code

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._words.append(line.decode("utf-8", "replace").strip())


def _path() -> str:
    """Our packages first, wherever the gateway was started from."""
    rest = os.environ.get("PYTHONPATH")
    return f"{_ROOT}{os.pathsep}{rest}" if rest else str(_ROOT)
