"""A pair whose passes take as long as they are told to, and a line between them that is as slow.

The scheduler, the session's two ends, the endpoint and the drafter are the real ones. Only what
would compute is missing: behind the decoder's seam a target says a fixed sentence, a drafter says
the same but where it is told to be wrong, and a pass lasts by the clock. So a machine with two
cores can show what a pair of machines would do, in real time or in virtual (virtual_time.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosedOK

from backends.engine.decoding import Guesser, Sampler
from backends.engine.prompts import Guide, Vocabulary
from backends.engine.protocol import Job, Output, Ready, Role
from backends.engine.scheduler import Scheduler
from backends.engine.slots import Limits
from backends.speculative.session import PATH
from gateway.core.chat import ChatRequest
from gateway.core.routing import Upstream, Zone
from tests.fakes.scripted import upstream
from tests.fakes.toy_pair import VOCABULARY

VOCAB = VOCABULARY.vocab_n
PROMPT = (1, 2, 3)
WRONG = 1
RETRANSMIT_S = 0.2
"""What a lost packet costs at least: Linux's smallest time-out."""


def said(position: int) -> int:
    """The target's token at a position; never the wrong one, never the end."""
    return 2 + position * 7 % (VOCAB - 2)


def coin(alpha: float, seed: int = 0) -> Callable[[int], bool]:
    """Whether a draft at a position holds: by the toss of a coin, the same each time."""
    return lambda position: random.Random(seed * 1_000_003 + position).random() < alpha


class PacedDecoder:
    """`pass_s` is what a batch takes by its rows; `holds` makes a drafter of it."""

    vocab = VOCAB

    def __init__(
        self, pass_s: Callable[[int], float], holds: Callable[[int], bool] | None = None
    ) -> None:
        self.spent = 0.0
        self._pass_s = pass_s
        self._holds = holds

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> NDArray[np.float32]:
        # A prompt counts as one row: reading it is not what is measured.
        self.spent += self._pass_s(sum(at >= len(PROMPT) for at in positions) or 1)
        chosen = [
            self._next(at + 1 - len(PROMPT))
            for at, want in zip(positions, wanted, strict=True)
            if want
        ]
        logits = np.zeros((len(chosen), VOCAB), np.float32)
        logits[range(len(chosen)), chosen] = 10.0
        return logits

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        pass

    def copy(self, source: int, target: int, end: int) -> None:
        raise AssertionError("nothing is shared here")

    def sampler(self, job: Job) -> Sampler | None:
        return None

    def guesser(self, job: Job) -> Guesser | None:
        return None

    def piece(self, token: int) -> bytes:
        return b"x"

    def spelling(self, token: int) -> bytes:
        return b"x"

    def ends(self, token: int) -> bool:
        return False

    def save(self, sequence: int) -> memoryview:
        return memoryview(b"")

    def load(self, sequence: int, state: memoryview) -> bool:
        return False

    def _next(self, position: int) -> int:
        return said(position) if self._holds is None or self._holds(position) else WRONG


class PacedSequence:
    """A job under way, as engine/sequence.py's Sequence is."""

    def __init__(self, id: int, say: Callable[[Callable[[Scheduler], None]], None]) -> None:
        self.id = id
        self._say = say
        self._news: asyncio.Queue[Output] = asyncio.Queue()
        self._over = False

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if self._over:
            raise StopAsyncIteration
        output = await self._news.get()
        self._over = output.finish is not None
        return output

    def deliver(self, output: Output) -> None:
        self._news.put_nowait(output)

    def draft(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self._say(lambda scheduler: scheduler.draft(self.id, epoch, base, tokens))

    def sync(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self._say(lambda scheduler: scheduler.sync(self.id, epoch, base, tokens))

    def hold(self, on: bool) -> None:
        self._say(lambda scheduler: scheduler.pause(self.id, on))

    async def aclose(self) -> None:
        self._say(lambda scheduler: scheduler.cancel(self.id))


class PacedEngine:
    """The worker's loop: what was said, a step, the time that it took, what it brought.

    What is said during a pass is heard after it, as in the worker.
    """

    def __init__(self, decoder: PacedDecoder, *, verify: int = 8) -> None:
        limits = Limits(context=4096, cells=16384, slots=8, verify=verify)
        self.ready: Ready | None = Ready(
            vocab=VOCAB, context=4096, slots=8, threads=1, load_s=0.0, exactness="bitwise"
        )
        self._decoder = decoder
        self._scheduler = Scheduler(decoder, limits)
        self._sequences: dict[int, PacedSequence] = {}
        self._said: deque[Callable[[Scheduler], None]] = deque()
        self._called = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._ids = 0

    async def submit(self, job: Job) -> PacedSequence:
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        self._ids += 1
        numbered = replace(job, id=self._ids)
        sequence = self._sequences[numbered.id] = PacedSequence(numbered.id, self._say)
        self._say(lambda scheduler: scheduler.submit(numbered))
        return sequence

    async def aclose(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    def _say(self, command: Callable[[Scheduler], None]) -> None:
        self._said.append(command)
        self._called.set()

    async def _work(self) -> None:
        loop, free_at = asyncio.get_running_loop(), 0.0
        while True:
            while self._said:
                self._said.popleft()(self._scheduler)
            if self._scheduler.idle:
                self._called.clear()
                if not self._said:
                    await self._called.wait()
                continue
            self._decoder.spent = 0.0
            outputs = self._scheduler.step()
            # From when the last pass was due: a timer that is late must not slow the pace down.
            began = free_at if loop.time() - free_at < 0.002 else loop.time()
            free_at = began + self._decoder.spent
            await asyncio.sleep(free_at - loop.time())
            for output in outputs:
                self._sequences[output.id].deliver(output)


class PacedModel:
    """What a session needs of a local backend, for either role."""

    def __init__(self, name: str, engine: PacedEngine) -> None:
        self.engine = engine
        self.upstream: Upstream = replace(upstream(name, zone=Zone.MACHINE), context=4096)
        self.vocabulary: Vocabulary | None = VOCABULARY

    async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        return PROMPT

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        return ()

    async def guide(self, request: ChatRequest) -> Guide:
        return Guide()

    def job(
        self,
        request: ChatRequest,
        prompt: tuple[int, ...],
        *,
        tenant: str,
        role: Role,
        guide: Guide,
    ) -> Job:
        return Job(
            id=0,
            tokens=prompt,
            max_tokens=request.sampling.max_tokens or 1000,
            role=role,
            tenant=tenant,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """A line's seconds there and back, what comes on top at random, and how many packets it loses.

    As TCP has it: nothing overtakes, and behind a loss everything waits.
    """

    rtt_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    seed: int = 0


class Line:
    """One direction."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self._weather = weather
        self._random = random.Random(weather.seed * 2 + seed)
        self._last = 0.0
        self._under_way: deque[Any] = deque()
        self._there: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        weather, loop = self._weather, asyncio.get_running_loop()
        delay = weather.rtt_s / 2 + self._random.random() * weather.jitter_s / 2
        if self._random.random() < weather.loss:
            delay += max(RETRANSMIT_S, weather.rtt_s)
        self._last = max(self._last, loop.time() + delay)
        self._under_way.append(item)
        loop.call_at(self._last, self._arrive)

    async def get(self) -> Any:
        return await self._there.get()

    def _arrive(self) -> None:
        self._there.put_nowait(self._under_way.popleft())


class Socket:
    """The edge's end of a WebSocket to an ASGI application, as `websockets` would have it."""

    def __init__(self, app: Any, weather: Weather, headers: Mapping[str, str]) -> None:
        self._up, self._down = Line(weather, 0), Line(weather, 1)
        self._pings, self._pongs = Line(weather, 2), Line(weather, 3)
        scope = {
            "type": "websocket",
            "path": PATH,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
        self._up.put({"type": "websocket.connect"})
        self.serving = asyncio.create_task(app(scope, self._up.get, self._send))

    async def send(self, data: bytes) -> None:
        self._up.put({"type": "websocket.receive", "bytes": data})

    async def recv(self) -> bytes:
        data = await self._down.get()
        if data is None:
            raise ConnectionClosedOK(None, None)
        return bytes(data)

    async def ping(self) -> asyncio.Future[float]:
        return asyncio.ensure_future(self._ping())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._up.put({"type": "websocket.disconnect", "code": code})

    async def _ping(self) -> float:
        began = asyncio.get_running_loop().time()
        self._pings.put(None)
        await self._pings.get()
        self._pongs.put(None)
        await self._pongs.get()
        return asyncio.get_running_loop().time() - began

    async def _send(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "websocket.send":
            self._down.put(event["bytes"])
        elif event["type"] == "websocket.close":
            self._down.put(None)
