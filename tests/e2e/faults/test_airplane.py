"""Airplane mode: every cloud gone at once, and back, before a running gateway in real time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.resilience.breaker import FIRST_PAUSE_S, JITTER, THRESHOLD
from tests.fakes.faults import ok
from tests.fakes.fronting import QUICK, Front, fronting, run
from tests.fakes.upstream import Conversation, FakeUpstream, Script, chunk, finish, sse

HERE = sse(chunk("here"), finish())


async def cut_off(conversation: Conversation) -> None:
    conversation.reset()


async def silent(conversation: Conversation) -> None:
    await conversation.hang()


async def asked(front: Front) -> list[str]:
    """Who was asked for one answer; the last one gave it."""
    answer = await front.ask()
    assert (answer.status, answer.error, answer.done or answer.text) == (200, {}, answer.done)
    return [name for name, _ in await front.attempts(answer)]


@pytest.mark.parametrize("air", [cut_off, silent])
def test_airplane_mode(air: Script) -> None:
    """Every request is answered; once each cloud's breaker has opened, by the machine alone, with
    no cloud asked. When the clouds are back they answer again by themselves, after one pause.
    """

    async def story() -> None:
        async with (
            FakeUpstream(ok) as one,
            FakeUpstream(ok) as two,
            FakeUpstream(HERE) as here,
            fronting(
                {"one": one.base_url, "two": two.base_url, "here": here.base_url},
                timeouts=QUICK,
                zones={"here": "machine"},
            ) as front,
        ):
            assert await asked(front) == ["one"]
            one.scripts = two.scripts = (air,)
            rounds = 0
            while (names := await asked(front)) != ["here"]:
                assert names[-1] == "here"
                rounds += 1
                assert rounds <= 2 * THRESHOLD, "no breaker has opened"
            for cloud in ("one", "two"):
                assert front.metric(f'tandem_breaker_state{{upstream="{cloud}"}}') == 1  # open
            before = len(one.requests) + len(two.requests)
            for _ in range(10):
                assert await asked(front) == ["here"]
            assert len(one.requests) + len(two.requests) == before
            one.scripts = two.scripts = (ok,)
            async with asyncio.timeout(10 * FIRST_PAUSE_S * (1 + JITTER)):
                while (await asked(front))[-1] == "here":
                    await asyncio.sleep(0.1)
            assert (await front.ask()).text == "one two"

    run(story())
