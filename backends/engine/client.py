"""The engine as the gateway sees it: submit a job, read its outputs; the worker's life is ours.

    starting ──ready──▶ up ──worker ends──▶ waiting, quarantined or held ──▶ starting
                                            (restarts.py says which, and how long)

What was under way when a worker died ends with EngineFailed: the tokens are gone, and whether
another upstream may answer is the pipeline's decision, not ours. Its prompt is remembered
(poison.py): one that was there for two deaths is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import time
from collections import Counter, deque
from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from backends.engine.embeddings import Embeddings
from backends.engine.heartbeat import BEAT_S, Heartbeat
from backends.engine.poison import PoisonList
from backends.engine.process import Child, ended_by
from backends.engine.protocol import (
    NOT_A_NUMBER,
    OVERLOADED,
    FrameError,
    Job,
    Output,
    Ready,
    Wire,
)
from backends.engine.restarts import Restarts, State
from backends.engine.sequence import Sequence, failure
from backends.engine.settings import EngineSettings
from backends.engine.turns import Turns
from gateway.core.errors import EngineFailed, PromptRefused

log = logging.getLogger(__name__)

LOAD_LIMIT_S = 300.0
GONE_S = 0.5
"""For a worker that has gone to be reaped. Killing it at once would take its exit status from
asyncio's watcher (Popen.send_signal polls first), and with it the reason."""
STUCK_S = 10.0
STUCK_STEPS = 20.0
"""A worker with work that shows no step for STUCK_S, or this many usual steps, is killed."""
Cause: TypeAlias = Literal[
    "start", "load", "crash", "killed", "exit", "hung", "stuck", "not_a_number", "protocol"
]
"""Why a worker ended: it could not be started, or not load the model; an abort or a segfault; a
kill (the kernel, out of memory, or a person); it left; it stood still, or made no step; its model
computed no numbers; or it sent what is no frame."""


def _cause(code: int) -> Cause:
    if code >= 0:
        return "exit"
    return "killed" if -code == signal.SIGKILL else "crash"


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
        self.turns = Turns(settings.slots, time.monotonic)
        self._embeddings = Embeddings()
        self._ids = itertools.count(1)
        self._said = 0
        self._waiting_since: float | None = None
        self._usual_s = 0.0
        self._up_since: float | None = None
        self._killed_as: Cause | None = None
        self._computing: dict[int, Tokens[int]] = {}
        self._poison = PoisonList(time.monotonic)
        self._restarts = Restarts()
        self._stats: deque[asyncio.Future[dict[str, Any]]] = deque()
        self.ready: Ready | None = None
        self.detail = "not started"
        self.state: State | Literal["starting", "up", "closed"] = "starting"
        self.ends: Counter[str] = Counter()

    async def start(self) -> None:
        """Start the worker and wait for its first try to end well or badly; `ready` says which."""
        self._settled.clear()
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._name}: supervisor")
        await self._settled.wait()

    async def submit(self, job: Job) -> Sequence:
        """Queue a job; its id is replaced by one of ours. Raises EngineFailed without a worker."""
        if self._child is None or self.ready is None:
            raise EngineFailed(f"the local engine is not running: {self.detail}")
        if left := self._poison.refuses(job.tokens):
            raise PromptRefused(
                "the local engine died more than once while it worked on this prompt; it is not"
                f" tried there for another {left:.0f} s"
            )
        job = replace(job, id=next(self._ids))
        sequence = Sequence(job, self._say, self._forget)
        self._sequences[job.id] = sequence
        self.turns.began(job.id)
        self._say(job.pack())
        return sequence

    async def embed(self, texts: Tokens[Tokens[int]]) -> tuple[bytes, ...]:
        """The vectors of tokenised texts, in order, as little-endian float32 of length one.

        Cancelled, it leaves no work behind. Raises EngineFailed, ContextExceeded, InvalidRequest,
        and Overloaded if as many requests wait as the queue holds.
        """
        if self._child is None or self.ready is None:
            raise EngineFailed(f"the local engine is not running: {self.detail}")
        if len(self._embeddings) >= self._settings.queue:
            why = f"{OVERLOADED}: {self._settings.queue} requests are waiting"
            raise failure(why)
        id = next(self._ids)
        waiting = self._embeddings.expect(id, len(texts))
        try:
            for at, tokens in enumerate(texts):
                self._say({"op": "embed", "id": id, "at": at, "tokens": list(tokens)})
            return await waiting
        finally:
            if not self._embeddings.done(id):
                self._say({"op": "cancel", "id": id})

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
    def restarts(self) -> int:
        """Workers that ended unasked, at the start or later."""
        return self.ends.total()

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
        self.detail = self.state = "closed"

    def _say(self, frame: Wire) -> None:
        if self._child is not None:
            self._said += 1
            if self._waiting_since is None:
                self._waiting_since = asyncio.get_running_loop().time()
            self._child.write(frame)

    def _forget(self, id: int) -> None:
        self._sequences.pop(id, None)
        self.turns.ended(id)

    async def _keep(self) -> None:
        """Start workers, one after another, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self.state = "starting"
                cause, why = await self._one_life()
                now = loop.time()
                lived = 0.0 if self._up_since is None else now - self._up_since
                pause = self._restarts.ended(now, lived)
                self.ends[cause] += 1
                self.state, self.detail = pause.state, f"{pause.said}: {why}" if pause.said else why
                self._settled.set()
                level = logging.ERROR if pause.said else logging.WARNING
                log.log(level, "%s: the engine worker ended: %s", self._name, self.detail)
                await asyncio.sleep(pause.seconds)
        finally:
            self._settled.set()

    async def _one_life(self) -> tuple[Cause, str]:
        """From spawn to the worker's end; why it ended, for counting and for reading."""
        self._up_since = self._killed_as = None
        environment = {"OMP_NUM_THREADS": str(self._settings.threads)}
        argument = self._settings.json()
        shared = (self._settings.snapshots,) if self._settings.snapshots >= 0 else ()
        try:
            child = await Child.spawn("backends.engine.worker", argument, environment, shared)
        except OSError as error:
            return "start", f"it could not be started: {error.strerror}"
        grace = GONE_S
        watchdog: asyncio.Task[None] | None = None
        why = "the engine is closed"
        try:
            why = await self._first_words(child)
            if self.ready is not None:
                self._up_since = asyncio.get_running_loop().time()
                self.state = "up"
                self._settled.set()
                heartbeat = Heartbeat(child.pid)
                watchdog = asyncio.create_task(self._watch(child, heartbeat))
                why = await self._listen(child, heartbeat)
            self._blame()
        except FrameError as error:
            self._killed_as, why = "protocol", f"it sent what it should not: {error}"
        except asyncio.CancelledError:
            grace = 2.0
            raise
        finally:
            self.ready = self._child = None
            self._computing.clear()
            self._fail_all(why)
            if watchdog is not None:
                watchdog.cancel()
            stopping = asyncio.create_task(child.stop(grace))
            try:
                code = await asyncio.shield(stopping)
            except asyncio.CancelledError:
                await stopping  # closed while a dead worker was being tidied away: finish that
                raise
        if self._killed_as is not None:
            return self._killed_as, why
        why = f"{why} ({ended_by(code)})" + (f": {child.last_words}" if child.last_words else "")
        return _cause(code), why

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
            self._killed_as = "load"
            return str(frame.get("detail", "it could not load the model"))
        self._said, self._waiting_since, self._usual_s = 0, None, 0.0
        self._child, self.ready, self.detail = child, Ready.unpack(frame), ""
        return ""

    async def _listen(self, child: Child, heartbeat: Heartbeat) -> str:
        while (frame := await child.read()) is not None:
            match frame["op"]:
                case "step":
                    self._note_step(idle=frame["idle"] and frame["seen"] == self._said)
                    if failed := self._deliver([Output.unpack(each) for each in frame["out"]]):
                        self._killed_as = "not_a_number"
                        return failed
                    for id, at, vector, error in frame.get("vectors", ()):
                        self._embeddings.deliver(id, at, vector, failure(error) if error else None)
                case "admitted":
                    for id in frame["ids"]:
                        if sequence := self._sequences.get(id):
                            self._computing[id] = sequence.job.tokens
                case "pong":
                    heartbeat.answered()
                case "stats" if self._stats:
                    answer = self._stats.popleft()
                    if not answer.done():
                        answer.set_result(frame)
        if self._killed_as == "hung":
            return "the worker stood still and was killed"
        if self._killed_as == "stuck":
            return "the worker made no step and was killed"
        return "the worker died"

    def _deliver(self, outputs: Tokens[Output]) -> str:
        """Hand outputs on; why the worker must go, if one says so.

        Cells that hold no numbers spoil sequences beside them and those that come after, through
        cells they share; so a worker that computed such ends, and only those prompts are blamed.
        """
        spoilt = {}
        why = ""
        for output in outputs:
            tokens = self._computing.pop(output.id, ()) if output.finish else ()
            if tokens and output.finish in ("stop", "length"):
                self._poison.clear(tokens)
            if (output.error or "").startswith(NOT_A_NUMBER):
                spoilt[output.id], why = tokens, (output.error or "").partition(": ")[2]
            if sequence := self._sequences.get(output.id):
                sequence.deliver(output)
        if spoilt:
            self._computing = spoilt
        return why

    def _blame(self) -> None:
        """Remember what a worker died over. Known only here: a cancelled sequence counts until the
        worker has said that it dropped it."""
        self._poison.blame(tokens for tokens in self._computing.values() if tokens)

    def _note_step(self, *, idle: bool) -> None:
        now = asyncio.get_running_loop().time()
        if self._waiting_since is not None:
            self._usual_s += 0.1 * (now - self._waiting_since - self._usual_s)
        self._waiting_since = None if idle else now

    async def _watch(self, child: Child, heartbeat: Heartbeat) -> None:
        """Kill a worker that stands still, or has work and makes no step: nothing else would."""
        await asyncio.gather(self._watch_beats(child, heartbeat), self._watch_steps(child))

    async def _watch_beats(self, child: Child, heartbeat: Heartbeat) -> None:
        while not heartbeat.tick():
            child.write({"op": "ping"})
            await asyncio.sleep(BEAT_S)
        self._end(child, "hung")

    async def _watch_steps(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._stuck_s / 4)
            limit = max(self._stuck_s, STUCK_STEPS * self._usual_s)
            if self._waiting_since is not None and loop.time() - self._waiting_since > limit:
                self._end(child, "stuck")
                return

    def _end(self, child: Child, cause: Cause) -> None:
        if self._killed_as is None:
            self._killed_as = cause
            child.kill()

    def _fail_all(self, why: str) -> None:
        for sequence in list(self._sequences.values()):
            sequence.end(EngineFailed(f"the local engine failed: {why}"))
        self._embeddings.fail(EngineFailed(f"the local engine failed: {why}"))
        while self._stats:
            answer = self._stats.popleft()
            if not answer.done():
                answer.set_exception(EngineFailed(f"the local engine failed: {why}"))
