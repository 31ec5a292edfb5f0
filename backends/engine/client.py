"""The engine as the gateway sees it: submit a job, read its outputs; the worker's life is ours.

    starting ──ready──▶ up ──worker dies──▶ waiting (0.5, 1, 2 … 30 s) ──▶ starting
                                 │ third time within a minute
                                 ▼
                            quarantined (a minute, then the next try)

What was under way when a worker died ends with EngineFailed: the tokens are gone, and whether
another upstream may answer is the pipeline's decision, not ours.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Tokens
from dataclasses import replace
from typing import Any

from backends.engine.process import Child
from backends.engine.protocol import (
    EXPIRED,
    GRAMMAR,
    INVALID,
    OVERLOADED,
    SUPERSEDED,
    TOO_LONG,
    FrameError,
    Job,
    Output,
    Ready,
    Wire,
)
from backends.engine.settings import EngineSettings
from gateway.core.errors import (
    ContextExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Superseded,
    TandemError,
    UpstreamTimeout,
)

log = logging.getLogger(__name__)

LOAD_LIMIT_S = 300.0
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
CRASHES = 3
CRASH_WINDOW_S = 60.0
QUARANTINE_S = 60.0
STUCK_S = 10.0
STUCK_STEPS = 20.0
"""A worker with work that shows no step for STUCK_S, or this many usual steps, is killed."""
PAUSE_AT = 256
RESUME_AT = 64
"""Unread outputs of one sequence at which the worker is told to leave it out, and to go on."""


class Sequence:
    """One job under way: an async iterator of its Outputs. Close it; closing early cancels.

    Iteration ends after the Output with `finish`. Raises a TandemError instead of an Output whose
    finish is "error", and EngineFailed when the worker dies.
    """

    def __init__(
        self, job: Job, say: Callable[[Wire], None], forget: Callable[[int], None]
    ) -> None:
        self.job = job
        self._say = say
        self._forget = forget
        self._unread: deque[Output | TandemError] = deque()
        self._news = asyncio.Event()
        self._over = False
        self._paused = False

    def __aiter__(self) -> Sequence:
        return self

    async def __anext__(self) -> Output:
        while not self._unread:
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        item = self._unread.popleft()
        if self._paused and len(self._unread) <= RESUME_AT:
            self._pause(False)
        if isinstance(item, TandemError):
            raise item
        return item

    def draft(self, epoch: int, base: int, tokens: Tokens[int]) -> None:
        """Role target: propose tokens from position `base` on. Sent at once, never refused."""
        self._speak({"op": "draft", "epoch": epoch, "base": base, "tokens": list(tokens)})

    def sync(self, epoch: int, base: int, tokens: Tokens[int]) -> None:
        """Role draft: tell what the target committed from position `base` on."""
        self._speak({"op": "sync", "epoch": epoch, "base": base, "tokens": list(tokens)})

    async def aclose(self) -> None:
        """Cancel, unless it has ended. The worker frees its cells within a step."""
        self._speak({"op": "cancel"})
        self.end(None)

    def deliver(self, output: Output) -> None:
        """From the engine's reader."""
        if self._over:
            return
        if output.finish == "error":
            self.end(_failure(output.error or "", output.retry_after))
            return
        self._unread.append(output)
        self._news.set()
        if output.finish is not None:
            self.end(None)
        elif len(self._unread) >= PAUSE_AT and not self._paused:
            self._pause(True)

    def end(self, error: TandemError | None) -> None:
        if self._over:
            return
        self._over = True
        self._forget(self.job.id)
        if error is not None:
            self._unread.append(error)
        self._news.set()

    def _pause(self, on: bool) -> None:
        self._paused = on
        self._speak({"op": "pause", "on": on})

    def _speak(self, frame: Wire) -> None:
        if not self._over:
            self._say({**frame, "id": self.job.id})


def _failure(error: str, retry_after: float | None = None) -> TandemError:
    """The one place where a worker's refusal becomes an error of ours."""
    word, _, sentence = error.partition(": ")
    if word == OVERLOADED:
        return Overloaded(f"the local engine is busy: {sentence}", retry_after=retry_after or 1.0)
    if word == EXPIRED:
        return UpstreamTimeout(f"the local engine is busy: {sentence}")
    if word == SUPERSEDED:
        return Superseded(sentence)
    if word == TOO_LONG:
        return ContextExceeded(f"the request is too long: {sentence}", param="prompt")
    if word == INVALID:
        return InvalidRequest(sentence, param="prompt")
    if word == GRAMMAR:
        return InvalidRequest(sentence, param="grammar")
    return EngineFailed(f"the local engine failed: {sentence or error}")


class Engine:
    """One supervised worker. `start` and `aclose` belong to the same loop, in the main thread."""

    def __init__(
        self, settings: EngineSettings, *, name: str = "engine", stuck_s: float = STUCK_S
    ) -> None:
        self._settings = settings
        self._name = name
        self._stuck_s = stuck_s
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._sequences: dict[int, Sequence] = {}
        self._ids = itertools.count(1)
        self._said = 0
        self._waiting_since: float | None = None
        self._usual_s = 0.0
        self._lived = False
        self._stats: deque[asyncio.Future[dict[str, Any]]] = deque()
        self.ready: Ready | None = None
        self.detail = "not started"
        self.restarts = 0

    async def start(self) -> None:
        """Start the worker and wait for its first try to end well or badly; `ready` says which."""
        self._settled.clear()
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._name}: supervisor")
        await self._settled.wait()

    async def submit(self, job: Job) -> Sequence:
        """Queue a job; its id is replaced by one of ours. Raises EngineFailed without a worker."""
        if self._child is None or self.ready is None:
            raise EngineFailed(f"the local engine is not running: {self.detail}")
        job = replace(job, id=next(self._ids))
        sequence = Sequence(job, self._say, self._forget)
        self._sequences[job.id] = sequence
        self._say(job.pack())
        return sequence

    async def stats(self) -> Mapping[str, Any]:
        """The worker's counters. Raises EngineFailed if there is no worker."""
        if self._child is None or self.ready is None:
            raise EngineFailed(f"the local engine is not running: {self.detail}")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._stats.append(answer)
        self._say({"op": "stats"})
        return await answer

    @property
    def pid(self) -> int | None:
        """The worker's, while there is one."""
        return self._child.pid if self._child else None

    @property
    def busy(self) -> bool:
        """Whether the worker has something to compute, or has not yet said that it has not."""
        return self._waiting_since is not None

    async def aclose(self) -> None:
        """End the worker and every sequence."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self.detail = "closed"

    def _say(self, frame: Wire) -> None:
        if self._child is not None:
            self._said += 1
            if self._waiting_since is None:
                self._waiting_since = asyncio.get_running_loop().time()
            self._child.write(frame)

    def _forget(self, id: int) -> None:
        self._sequences.pop(id, None)

    async def _keep(self) -> None:
        """Start workers, one after another, until cancelled."""
        loop = asyncio.get_running_loop()
        crashes: deque[float] = deque(maxlen=CRASHES)
        streak = 0
        try:
            while True:
                began = loop.time()
                why = await self._one_life()
                now = loop.time()
                self.detail = why
                self._settled.set()
                self.restarts += self._lived
                streak = 1 if self._lived and now - began > CRASH_WINDOW_S else streak + 1
                crashes.append(now)
                if len(crashes) == CRASHES and now - crashes[0] < CRASH_WINDOW_S:
                    log.error("%s: quarantined after %d failures: %s", self._name, CRASHES, why)
                    self.detail = f"quarantined after {CRASHES} failures: {why}"
                    crashes.clear()
                    await asyncio.sleep(QUARANTINE_S)
                else:
                    log.warning("%s: the engine worker ended: %s", self._name, why)
                    await asyncio.sleep(BACKOFF_S[min(streak, len(BACKOFF_S)) - 1])
        finally:
            self._settled.set()

    async def _one_life(self) -> str:
        """From spawn to the worker's end; why it ended."""
        self._lived = False
        environment = {
            "GGML_NO_BACKTRACE": "1",  # with gdb installed, an abort would fork it for seconds
            "OMP_NUM_THREADS": str(self._settings.threads),
        }
        argument = self._settings.json()
        shared = (self._settings.snapshots,) if self._settings.snapshots >= 0 else ()
        try:
            child = await Child.spawn("backends.engine.worker", argument, environment, shared)
        except OSError as error:
            return f"it could not be started: {error.strerror}"
        grace = 0.0
        watchdog: asyncio.Task[None] | None = None
        why = "the engine is closed"
        try:
            why = await self._first_words(child)
            if self.ready is not None:
                self._lived = True
                self._settled.set()
                watchdog = asyncio.create_task(self._watch(child))
                why = await self._listen(child)
        except FrameError as error:
            why = f"it sent what it should not: {error}"
        except asyncio.CancelledError:
            grace = 2.0
            raise
        finally:
            self.ready = self._child = None
            self._fail_all(why)
            if watchdog is not None:
                watchdog.cancel()
            stopping = asyncio.create_task(child.stop(grace))
            try:
                code = await asyncio.shield(stopping)
            except asyncio.CancelledError:
                await stopping  # closed while a dead worker was being tidied away: finish that
                raise
        return f"{why} (exit {code})" + (f": {child.last_words}" if child.last_words else "")

    async def _first_words(self, child: Child) -> str:
        """Wait for `ready`. Leaves `self.ready` None if the model cannot be loaded."""
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                frame = await child.read()
        except TimeoutError:
            return f"not ready within {LOAD_LIMIT_S:g} s"
        if frame is None:
            return "it died while loading"
        if frame["op"] != "ready":
            return str(frame.get("detail", "it could not load the model"))
        self._said, self._waiting_since, self._usual_s = 0, None, 0.0
        self._child, self.ready, self.detail = child, Ready.unpack(frame), ""
        return ""

    async def _listen(self, child: Child) -> str:
        while (frame := await child.read()) is not None:
            if frame["op"] == "step":
                self._note_step(idle=frame["idle"] and frame["seen"] == self._said)
                for values in frame["out"]:
                    output = Output.unpack(values)
                    if sequence := self._sequences.get(output.id):
                        sequence.deliver(output)
            elif frame["op"] == "stats" and self._stats:
                answer = self._stats.popleft()
                if not answer.done():
                    answer.set_result(frame)
        return "the worker died"

    def _note_step(self, *, idle: bool) -> None:
        now = asyncio.get_running_loop().time()
        if self._waiting_since is not None:
            self._usual_s += 0.1 * (now - self._waiting_since - self._usual_s)
        self._waiting_since = None if idle else now

    async def _watch(self, child: Child) -> None:
        """Kill a worker that has work and makes no step: nothing else would ever end it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._stuck_s / 4)
            limit = max(self._stuck_s, STUCK_STEPS * self._usual_s)
            if self._waiting_since is not None and loop.time() - self._waiting_since > limit:
                log.error("%s: the engine worker is stuck; killing it", self._name)
                child.kill()
                return

    def _fail_all(self, why: str) -> None:
        for sequence in list(self._sequences.values()):
            sequence.end(EngineFailed(f"the local engine failed: {why}"))
        while self._stats:
            answer = self._stats.popleft()
            if not answer.done():
                answer.set_exception(EngineFailed(f"the local engine failed: {why}"))
