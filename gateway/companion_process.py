"""The bundled target as a process of its own: `tandem serve --companion` on a loopback port.

The listening socket belongs to us and is inherited, so that the port stays the same when the
process dies and is started again; connections made in between wait in its backlog.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import subprocess
import sys

from backends.engine.environment import plain

logger = logging.getLogger("tandem.companion")

LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
TERM_GRACE_S = 5.0


class CompanionProcess:
    """Supervises one companion on this machine. `start` from the main thread only.

    (PDEATHSIG follows the thread that spawned: a worker thread's end would kill the child.)
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.key = "tdm-" + secrets.token_urlsafe(32)
        # Our secrets are no business of a process that only runs a model. And its log lines would
        # look like ours; what goes wrong is still told.
        self._env = {**plain(env), "TANDEM_API_KEY": self.key, "TANDEM_LOG": "WARNING"}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = await self._spawn()
        self._watcher = asyncio.create_task(self._watch(), name="companion-watch")

    async def aclose(self) -> None:
        """Stop the process and give the port back; kills it if it does not leave in time."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), TERM_GRACE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._socket.close()

    async def _spawn(self) -> asyncio.subprocess.Process:
        fd = self._socket.fileno()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--companion", "--fd", str(fd)),
            env=self._env,
            pass_fds=(fd,),
            stdin=subprocess.PIPE,  # its end-of-file tells the child that we are gone
            stdout=subprocess.DEVNULL,
            # Ctrl-C reaches the whole foreground group; our streams still need the companion then.
            start_new_session=True,
        )

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pause = 0.5
        while True:
            born = loop.time()
            assert self._process is not None
            code = await self._process.wait()
            if loop.time() - born > STEADY_S:
                pause = 0.5
            logger.warning("the companion ended with %s; again in %.1f s", code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
            self._process = await self._spawn()
