"""Who is measured: Tandem's engine alone, Tandem over HTTP, and two servers that others wrote.

All of them get the same file, one thread, the same context for each of as many streams, f16 cells.
Each side says how much CPU time its process tree has used and runs a list of prompts at once.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx

from backends.engine.client import Engine
from backends.engine.prompts import Prompts
from backends.engine.protocol import Job
from backends.engine.settings import EngineSettings
from tests.bench import sse_load
from tests.bench.cpu import cpu_seconds, tree_seconds
from tests.fakes.process import Serving, clean_env, serve, workers

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`context` is what one stream has; a server of many has it as often."""

    model: Path
    context: int
    streams: int = 16


class Side(Protocol):
    name: str

    def cpu(self) -> float:
        """CPU seconds so far, of all its processes."""

    async def prepare(self, prompts: Sequence[str]) -> None:
        """What is not to be measured."""

    async def run(self, prompts: Sequence[str], tokens: int) -> int:
        """Answer all prompts at once, greedily, exactly `tokens` each; content events seen."""


class EngineAlone:
    """The worker, spoken to as the gateway does. Its client's CPU time is ours, not counted."""

    name = "tandem engine"

    def __init__(self, engine: Engine, prompts: Prompts) -> None:
        self.engine = engine
        self._prompts = prompts
        self._tokens: dict[str, tuple[int, ...]] = {}

    def cpu(self) -> float:
        assert self.engine.pid is not None, self.engine.detail
        return cpu_seconds(self.engine.pid)

    async def prepare(self, prompts: Sequence[str]) -> None:
        self._tokens = {prompt: await self._prompts.text(prompt) for prompt in prompts}

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """Of a prompt that was prepared."""
        return self._tokens[prompt]

    def prompt_tokens(self, prompt: str) -> int:
        return len(self._tokens[prompt])

    async def run(self, prompts: Sequence[str], tokens: int) -> int:
        asked = [self._tokens[prompt] for prompt in prompts]
        return sum(await asyncio.gather(*(self._one(each, tokens) for each in asked)))

    async def _one(self, prompt: tuple[int, ...], tokens: int) -> int:
        events = 0
        async for output in await self.engine.submit(Job(id=0, tokens=prompt, max_tokens=tokens)):
            events += bool(output.text)
            if output.finish not in (None, "length") or (
                output.finish and output.completion_tokens != tokens
            ):
                raise sse_load.AnswerCut(str(output))
        return events


class Server:
    """Anything with /v1/completions and SSE."""

    def __init__(self, name: str, base_url: str, pid: int, model: str) -> None:
        self.name, self.base_url, self.pid, self.model = name, base_url, pid, model

    def cpu(self) -> float:
        return tree_seconds(self.pid)

    async def prepare(self, prompts: Sequence[str]) -> None:
        pass

    def body(self, prompt: str, tokens: int) -> dict[str, object]:
        return {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}

    async def run(self, prompts: Sequence[str], tokens: int) -> int:
        bodies = [self.body(prompt, tokens) for prompt in prompts]
        return sum(each.events for each in await sse_load.streams(self.base_url, bodies))

    def prompt_tokens(self, prompt: str) -> int:
        answer = httpx.post(
            f"{self.base_url}/v1/completions",
            json=self.body(prompt, 1),
            timeout=60,
            trust_env=False,
        )
        return int(answer.json()["usage"]["prompt_tokens"])


class Gateway(Server):
    """Tandem whole. `front` is what of its CPU time is not the worker's."""

    def __init__(self, serving: Serving) -> None:
        super().__init__("tandem http", serving.base_url, serving.process.pid, "local")
        self._worker = workers(self.pid)[0]

    def front(self) -> float:
        return self.cpu() - cpu_seconds(self._worker)


@asynccontextmanager
async def engine_alone(setting: Setting, **changes: object) -> AsyncIterator[EngineAlone]:
    settings = EngineSettings(
        model=str(setting.model),
        context=setting.context,
        slots=setting.streams,
        threads=1,
        **changes,  # type: ignore[arg-type]
    )
    engine, prompts = Engine(settings), Prompts(setting.model)
    try:
        await engine.start()
        await prompts.start()
        yield EngineAlone(engine, prompts)
    finally:
        await prompts.aclose()
        await engine.aclose()


@contextmanager
def tandem(setting: Setting) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "tandem.yaml"
        config.write_text(
            f"upstreams:\n  local: {{kind: llama_cpp, zone: machine, model: '{setting.model}', "
            f"context: {setting.context}, slots: {setting.streams}, threads: 1}}\n"
        )
        with serve("-c", str(config)) as serving:
            yield Gateway(serving)


@contextmanager
def xllamacpp(setting: Setting) -> Iterator[Server]:
    """llama-server's core in a process of its own. PyPI's wheel `xllamacpp`."""
    cells = setting.context * setting.streams
    command = [__file__, str(setting.model), str(cells), str(setting.streams)]
    with _started(command, re.compile(r"(http://127\.0\.0\.1:\d+)")) as (pid, base_url):
        yield Server("xllamacpp", base_url, pid, "x")


@contextmanager
def llama_cpp_server(setting: Setting) -> Iterator[Server]:
    """`python -m llama_cpp.server`: one request at a time, so one context is all it can use."""
    options = {
        "model": setting.model,
        "n_ctx": setting.context,
        "n_threads": 1,
        "n_threads_batch": 1,
        "host": "127.0.0.1",
        "port": 0,
        # By default a new request ends the stream before it.
        "interrupt_requests": "false",
        "verbose": "false",
    }
    command = ["-m", "llama_cpp.server"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with _started(command, re.compile(r"running on (http://127\.0\.0\.1:\d+)")) as (pid, base_url):
        yield Server("llama_cpp.server", base_url, pid, "x")


@contextmanager
def _started(command: list[str], address: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    with ExitStack() as stack:
        said = stack.enter_context(tempfile.NamedTemporaryFile("w+"))
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=clean_env(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while (found := address.search(Path(said.name).read_text(errors="replace"))) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command} did not start: {Path(said.name).read_text()[-2000:]}")
            time.sleep(0.05)
        yield process.pid, found[1]


def _serve_xllamacpp() -> None:
    """In the child: serve until standard input ends."""
    import xllamacpp as x

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("cells", type=int)
    parser.add_argument("streams", type=int)
    arguments = parser.parse_args()
    params = x.CommonParams()
    params.model.path = arguments.model
    params.n_ctx, params.n_parallel = arguments.cells, arguments.streams
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.fit_params = False
    params.verbosity = 0
    server = x.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve_xllamacpp()
