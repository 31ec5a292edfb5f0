"""One answer of a paced pair, in three ways: plain streaming, rounds in turn, never idle.

Never idle is the product's own backend over an in-process socket, or over a real one. Plain
streaming is the least that streaming can be: the same engine's outputs over the same line, with no
protocol at all; on loopback, server-sent events to the product's own backend. Rounds in turn exist
nowhere in the product; they are acted out here, so as to have something to compare with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import orjson

from backends.base import Backend, Resources
from backends.engine.protocol import Job
from backends.openai import OpenAIBackend, OpenAIOptions
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.client import Session
from backends.speculative.formulas import never_idle_in_passes, never_idle_rate, sync_rate
from backends.speculative.options import SpeculativeOptions
from backends.speculative.transport import Transport, WebSocketTransport
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.events import SpeculationReport, TextDelta
from gateway.core.exchange import Call, Caller
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.chaos import ChaosProxy, Toxics
from tests.fakes.paced import PROMPT, Line, PacedDecoder, PacedEngine, PacedModel, Socket, Weather
from tests.fakes.serving import serving

WARM_UP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Seconds a token of the target and of the drafter, and which drafts hold."""

    target_s: float
    draft_s: float
    holds: Callable[[int], bool]
    tokens: int = 192

    @property
    def alpha(self) -> float:
        """The share of drafts that hold in an answer, as they fell."""
        return sum(map(self.holds, range(1, self.tokens))) / (self.tokens - 1)

    def predicted(self, rtt_s: float) -> float:
        """Wall seconds of a never-idle answer by the closed form (speculation.md 5)."""
        rate = never_idle_rate(self.alpha, self.target_s, self.draft_s, rtt_s)
        return rtt_s + self.target_s + (self.tokens - 1) * rate

    def in_passes(self, rtt_s: float) -> float:
        """The same by the form that knows that drafts are used when a pass begins."""
        rate = never_idle_in_passes(self.alpha, self.target_s, self.draft_s, rtt_s)
        return rtt_s + self.target_s + (self.tokens - 1) * rate

    def best_round(self, rtt_s: float) -> int:
        """The number of drafts with which rounds in turn cost least."""
        return min(
            range(1, 33),
            key=lambda k: sync_rate(self.alpha, k, self.draft_s, rtt_s, self.target_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    wall_s: float
    report: SpeculationReport = SpeculationReport(strategy="")


async def streaming(pair: Pair, weather: Weather) -> float:
    """Wall seconds from the question to the last token."""
    loop = asyncio.get_running_loop()
    engine = PacedEngine(PacedDecoder(lambda rows: pair.target_s))
    up, down = Line(weather, 0), Line(weather, 1)

    async def serve() -> None:
        await up.get()
        async for output in await engine.submit(Job(id=0, tokens=PROMPT, max_tokens=pair.tokens)):
            down.put(output)

    began = loop.time()
    serving = asyncio.create_task(serve())
    up.put("question")
    while (await down.get()).finish is None:
        pass
    wall = loop.time() - began
    await serving
    await engine.aclose()
    return wall


async def rounds(pair: Pair, weather: Weather) -> float:
    """The same by drafting, sending and waiting in turn, the draft as long as serves best."""
    loop = asyncio.get_running_loop()
    up, down = Line(weather, 0), Line(weather, 1)
    most = pair.best_round(weather.rtt_s)

    async def verify() -> None:
        while True:
            await up.get()
            await asyncio.sleep(pair.target_s)
            down.put(None)

    verifying = asyncio.create_task(verify())
    began, said = loop.time(), 0
    up.put("question")
    await down.get()
    said += 1
    while said < pair.tokens:
        await asyncio.sleep(most * pair.draft_s)
        up.put("draft")
        await down.get()
        held = 0
        while held < most and pair.holds(said + held):
            held += 1
        said += held + 1
    wall = loop.time() - began
    verifying.cancel()
    await asyncio.wait([verifying])
    return wall


class NeverIdle:
    """A speculative backend between paced engines. Close it.

    With an `address`, at which the caller serves `endpoint`, over real WebSockets.
    """

    def __init__(
        self,
        pair: Pair,
        weather: Weather,
        *,
        pass_s: Callable[[int], float] | None = None,
        connect_trips: int = 0,
        address: str | None = None,
        **options: Any,
    ) -> None:
        self.pair = pair
        self._weather = weather
        self._trips = connect_trips
        target = PacedEngine(PacedDecoder(pass_s or (lambda rows: pair.target_s)))
        draft = PacedEngine(PacedDecoder(lambda rows: pair.draft_s, pair.holds))
        self._engines = target, draft
        self.endpoint = CompanionEndpoint(
            guard=lambda method, headers: None,
            authenticate=lambda headers: Caller(),
            resolve=resolver({"toy": PacedModel("toy", target)}),
        )
        self._sockets: list[Socket] = []
        loop = asyncio.get_running_loop()
        cloud = OpenAIBackend(
            "cloud",
            OpenAIOptions(kind="companion", base_url=address or "http://127.0.0.1:9", model="toy"),
            Resources(),
        )
        parts = {"draft": cast(Backend, PacedModel("draft", draft)), "cloud": cloud}
        self.backend = SpeculativeBackend(
            "pair",
            SpeculativeOptions.model_validate(
                {"kind": "speculative", "draft": "draft", "target": "cloud", **options}
            ),
            Resources(backends=parts),
            clock=loop.time,
            connect=None if address else self._connect,
        )
        self._cloud = cloud

    async def answer(self, tokens: int = 0) -> Taken:
        """One answer, checked to be whole."""
        loop = asyncio.get_running_loop()
        tokens = tokens or self.pair.tokens
        body = {"model": "toy", "prompt": "say it", "max_tokens": tokens, "stream": True}
        request = OpenAICompletions().decode(body, {})
        report, said = SpeculationReport(strategy=""), 0
        began = loop.time()
        async for event in self.backend.stream(request, Call(id="req_1")):
            if isinstance(event, TextDelta):
                said += event.tokens
            elif isinstance(event, SpeculationReport):
                report = event
        assert said == tokens, "an answer is not whole"
        return Taken(wall_s=loop.time() - began, report=report)

    async def plain(self) -> float:
        """Wall seconds of one answer of the target's over HTTP. Needs an address."""
        loop = asyncio.get_running_loop()
        body = {"model": "toy", "prompt": "say it", "max_tokens": self.pair.tokens, "stream": True}
        request, said = OpenAICompletions().decode(body, {}), 0
        began = loop.time()
        async for event in self._cloud.stream(request, Call(id="req_1")):
            said += len(event.text) if isinstance(event, TextDelta) else 0
        assert said == self.pair.tokens, "an answer is not whole"
        return loop.time() - began

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Sessions, and over HTTP the least that a streaming server can be: a frame a pass."""
        if scope["type"] == "websocket":
            await self.endpoint(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(data: bytes, more: bool = True) -> None:
            frame = b"data: " + data + b"\n\n"
            await send({"type": "http.response.body", "body": frame, "more_body": more})

        job = Job(id=0, tokens=PROMPT, max_tokens=self.pair.tokens)
        async for output in await self._engines[0].submit(job):
            choice = {"index": 0, "text": output.text.decode(), "finish_reason": output.finish}
            chunk = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "toy"}
            await say(orjson.dumps({**chunk, "choices": [choice]}))
        await say(b"[DONE]", more=False)

    async def aclose(self) -> None:
        for socket in self._sockets:
            socket.serving.cancel()
        if self._sockets:
            await asyncio.wait([socket.serving for socket in self._sockets])
        await self.backend.aclose()
        for engine in self._engines:
            await engine.aclose()
        await self._cloud.aclose()

    async def _connect(self, url: str, **fields: Any) -> Session:
        return Session(fields["upstream"], await self._dial(), fields["clock"], self._dial)

    async def _dial(self) -> Transport:
        await asyncio.sleep(self._trips * self._weather.rtt_s)
        socket = Socket(self.endpoint, self._weather, {})
        self._sockets.append(socket)
        return WebSocketTransport(cast(Any, socket))


@asynccontextmanager
async def over_loopback(pair: Pair, rtt_s: float = 0.0, **options: Any) -> AsyncIterator[NeverIdle]:
    """A paced pair whose sessions are real WebSockets, as a companion's server accepts them; each
    packet is late by half of `rtt_s`.
    """

    async def companion(scope: Any, receive: Any, send: Any) -> None:
        await backend.serve(scope, receive, send)

    async with serving(companion) as near:
        port = int(near.rsplit(":", 1)[1].partition("/")[0])
        async with ChaosProxy("127.0.0.1", port, Toxics(latency_s=rtt_s / 2)) as proxy:
            address = f"http://127.0.0.1:{proxy.port}/v1" if rtt_s else near
            backend = NeverIdle(pair, Weather(), address=address, **options)
            try:
                yield backend
            finally:
                await backend.aclose()


async def never_idle(pair: Pair, weather: Weather, **options: Any) -> Taken:
    """One answer, drafted throughout, of a pair that has answered before: its round trip and its
    pace are known."""
    backend = NeverIdle(pair, weather, **{"always": True, "ngram": False, **options})
    try:
        await backend.answer(WARM_UP)
        return await backend.answer()
    finally:
        await backend.aclose()
