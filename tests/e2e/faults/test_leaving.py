"""Row 29: nobody pays for a client who has left."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.fakes.faults import fault
from tests.fakes.fronting import CHAT, misbehaving, run, until

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize(
    ("plan", "stream"),
    [("hang-headers", True), ("hang-headers", False), ("hang-before-content", True)],
)
def test_row_29_a_client_that_leaves_before_the_answer(plan: str, stream: bool) -> None:
    """The upstream is hung up on, nobody else is asked, and no verdict falls on the upstream."""

    async def story() -> None:
        async with misbehaving(fault(plan)) as (front, bad, good):
            asking = asyncio.create_task(front.ask(stream=stream))
            await until(lambda: bool(bad.requests))
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await until(bad.hung_up.is_set)
            await front.at_rest()
            assert front.metric('tandem_upstream_requests_total{class="cancelled"') == 1
            vitals = front.gateway.fleet.vitals()["bad"]
            assert (vitals.breaker, vitals.retry_budget) == (0, 1)
            assert good.requests == []

    run(story())


def test_row_29_a_client_that_leaves_midway() -> None:
    """The upstream is hung up on, the outcome is `cancelled`, and what was said is counted."""

    async def story() -> None:
        async with misbehaving(fault("talk")) as (front, bad, _):
            async with front.http.stream("POST", CHAT, json=BODY) as answer:
                async for line in answer.aiter_lines():
                    if "word" in line:
                        break
            await until(bad.hung_up.is_set)
            await front.at_rest()
            record = await front.http.get(f"/v1/requests/{answer.headers['x-request-id']}")
            assert record.json()["outcome"] == "cancelled"
            assert record.json()["usage"]["completion_tokens"] > 0

    run(story())
