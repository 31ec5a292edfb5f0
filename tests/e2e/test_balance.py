"""Two real servers of one model behind one name: where a conversation's turns go."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import local_engine_missing
from tests.fakes.two_boxes import two_boxes


def test_a_conversation_stays_where_it_is_warm() -> None:
    """Most of the later turns go where the one before went and much of what they send again is
    cached there; both servers work, and records and metrics tell how the choice was made."""
    if missing := local_engine_missing():
        pytest.skip(missing)

    async def story() -> None:
        async with two_boxes() as pair:
            told = await pair.crowd(seed=1)
            assert told.stayed > 0.7 * told.moves
            assert told.cached > 0.4 * told.prompt
            served = []
            for box in pair.boxes:
                text = (await box.http.get("/metrics")).text
                served.append('tandem_upstream_requests_total{class="2xx",upstream="big"}' in text)
            assert served == [True, True]
            scrape = (await pair.front.http.get("/metrics")).text
            assert 'tandem_balance_choices_total{choice="warm"}' in scrape
            pinned = await pair.front.http.post(
                "/v1/chat/completions",
                json={"model": "two", "messages": [{"role": "user", "content": "hi"}]},
            )
            assert pinned.headers["x-tandem-route"] == "two"
            id = pinned.headers["x-request-id"]
            record = (await pair.front.http.get(f"/v1/requests/{id}")).json()
            assert record["balance"] == "only"

    asyncio.run(story())
