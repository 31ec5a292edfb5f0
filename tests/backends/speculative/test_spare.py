"""A connection made before it is needed: used, replaced when it is stale, not kept for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.options import SpeculativeOptions
from backends.speculative.spare import Spare
from backends.speculative.transport import NoSession, WebSocketTransport, session_url
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.events import SpeculationReport, TextDelta
from gateway.core.exchange import Call, Caller
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.bundled_pair import build
from tests.fakes.chaos import ChaosProxy, Toxics
from tests.fakes.serving import serving

pytest.importorskip("llama_cpp")

ASKED = OpenAICompletions().decode(
    {"model": "tandem", "prompt": "def main():\n", "max_tokens": 12, "temperature": 0}, {}
)


async def until(holds: object) -> None:
    async with asyncio.timeout(10):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


class Behind:
    """A companion behind a proxy that counts and cuts connections."""

    def __init__(
        self, endpoint: CompanionEndpoint, proxy: ChaosProxy, upstream: SpeculativeBackend
    ) -> None:
        self.endpoint = endpoint
        self.proxy = proxy
        self.upstream = upstream

    @property
    def spare(self) -> Spare:
        assert self.upstream._spare is not None
        return self.upstream._spare

    async def ask(self) -> tuple[str, str]:
        """An answer, and how it was begun."""
        text, how = "", ""
        async for event in self.upstream.stream(ASKED, Call(id="req")):
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, SpeculationReport):
                how = event.strategy
        return text, how

    async def warm(self) -> str:
        """A first answer, and the spare connection after it."""
        text, how = await self.ask()
        assert how.startswith("companion")
        await until(lambda: self.spare._ready is not None)
        return text


@asynccontextmanager
async def behind() -> AsyncIterator[Behind]:
    target = build("llama_cpp", Resources(), model="bundled:target", zone="machine", strict=True)
    await target.start()
    endpoint = CompanionEndpoint(
        guard=lambda method, headers: None,
        authenticate=lambda headers: Caller(),
        resolve=resolver({"target": target}),
    )
    try:
        async with serving(endpoint) as base_url:
            port = int(base_url.rsplit(":", 1)[1].split("/")[0])
            async with ChaosProxy("127.0.0.1", port) as proxy:
                address = f"http://127.0.0.1:{proxy.port}/v1"
                options = OpenAIOptions(kind="companion", base_url=address, model="target")
                cloud = OpenAIBackend("cloud", options, Resources())
                settings = SpeculativeOptions(kind="speculative", target="cloud")
                parts = Resources(backends={"cloud": cloud})
                upstream = SpeculativeBackend("pair", settings, parts)
                yield Behind(endpoint, proxy, upstream)
                await upstream.aclose()
                await cloud.aclose()
    finally:
        await target.aclose()


def test_the_next_answer_needs_no_handshake() -> None:
    """Its connection stands already: it comes although no other can be made any more."""

    async def story() -> None:
        async with behind() as here:
            text = await here.warm()
            assert here.proxy.connections == 2
            assert here.endpoint.open_sessions == 0, "a socket that waits is no session"
            assert here.proxy._server is not None
            here.proxy._server.close()
            again, how = await here.ask()
            assert again == text and how.startswith("companion")
            assert here.proxy.connections == 2

    asyncio.run(story())


def test_before_the_first_answer_nobody_is_called() -> None:
    """Nothing is dialled for an upstream that nobody has asked yet."""

    async def story() -> None:
        async with behind() as here:
            await asyncio.sleep(0.05)
            assert here.proxy.connections == 0

    asyncio.run(story())


def test_a_spare_that_was_closed_is_replaced() -> None:
    """The companion hangs up on who waits, as when it drains or reloads: the same answer, over a
    fresh connection."""

    async def story() -> None:
        async with behind() as here:
            text = await here.warm()
            here.endpoint.retire()
            await until(lambda: not here.endpoint._idle)
            again, how = await here.ask()
            assert again == text and how.startswith("companion")

    asyncio.run(story())


def test_a_spare_that_is_half_dead_is_replaced() -> None:
    """What carries nothing more is waited for so long, and then the answer is as it would be."""

    async def story() -> None:
        async with behind() as here:
            text, _ = await here.ask()
            await until(lambda: here.spare._ready is not None)
            await here.spare.aclose()
            here.upstream._spare = Spare(here.upstream._dial)
            before = here.proxy.carried
            here.spare.prepare()
            await until(lambda: here.spare._ready is not None)
            handshake = here.proxy.carried - before
            taken = here.spare.take()
            assert taken is not None
            await taken.drop()

            here.proxy.toxics = Toxics(blackhole_after=handshake)
            here.spare.prepare()
            await until(lambda: here.spare._ready is not None)
            here.proxy.toxics = Toxics()
            connections = here.proxy.connections
            again, how = await here.ask()
            assert again == text and how.startswith("companion")
            assert here.proxy.connections > connections, "it was not half dead"

    asyncio.run(story())


def test_it_does_not_stay() -> None:
    """After a while, and with its upstream, it is closed in good order."""

    async def story() -> None:
        async with behind() as here:
            url = session_url(here.upstream._target.options.base_url or "")

            async def dial() -> WebSocketTransport:
                return await WebSocketTransport.connect(url, api_key=None, timeout_s=2)

            spare = Spare(dial, kept_s=0.05)
            spare.prepare()
            await until(lambda: here.endpoint._idle)
            await until(lambda: not here.endpoint._idle)
            assert spare.take() is None

            spare = Spare(dial)
            spare.prepare()
            await until(lambda: here.endpoint._idle)
            await spare.aclose()
            await until(lambda: not here.endpoint._idle)
            spare.prepare()
            assert spare._task is not None and spare._task.done(), "closed is closed"

    asyncio.run(story())


def test_one_at_a_time() -> None:
    """However often it is asked for; and who cannot be reached is not asked again by itself."""

    async def story() -> None:
        async with behind() as here:
            url = session_url(here.upstream._target.options.base_url or "")
            dialled = 0

            async def dial() -> WebSocketTransport:
                nonlocal dialled
                dialled += 1
                if dialled == 1:
                    raise NoSession("unreachable")
                return await WebSocketTransport.connect(url, api_key=None, timeout_s=2)

            spare = Spare(dial)
            spare.prepare()
            await asyncio.sleep(0.05)
            assert dialled == 1 and spare.take() is None
            for _ in range(5):
                spare.prepare()
                await asyncio.sleep(0)
            await until(lambda: spare._ready is not None)
            spare.prepare()
            assert dialled == 2
            await spare.aclose()

    asyncio.run(story())
