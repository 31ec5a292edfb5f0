"""CORS: listed origins get what a browser needs, all others get nothing at all."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.cors import AllowedOrigins

PAGE = "https://chat.example"


async def inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
    await send({"type": "http.response.body", "body": b"in"})


def ask(method: str, origin: str | None, **headers: str) -> httpx.Response:
    if origin:
        headers["origin"] = origin

    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(AllowedOrigins(inner, [PAGE]))
        async with httpx.AsyncClient(transport=transport, base_url="http://gw") as client:
            return await client.request(method, "/v1/models", headers=headers)

    return asyncio.run(story())


def test_preflight_of_a_listed_origin_is_answered() -> None:
    """The browser is told that POST and the headers it named are fine."""
    answer = ask(
        "OPTIONS",
        PAGE,
        **{
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        },
    )
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"


def test_answers_to_a_listed_origin_are_marked() -> None:
    """The answer itself carries the mark, beside its own headers."""
    answer = ask("GET", PAGE)
    assert (answer.text, answer.headers["x-a"]) == ("in", "1")
    assert answer.headers["access-control-allow-origin"] == PAGE


def test_a_page_may_read_what_the_gateway_says() -> None:
    """Our headers that a browser would hide are named: what was ignored, what it cost, when to
    come back.
    """
    exposed = ask("GET", PAGE).headers["access-control-expose-headers"].split(", ")
    assert {"x-tandem-ignored", "x-tandem-cost-usd", "x-tandem-spec", "retry-after"} <= set(exposed)


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", PAGE + ".evil.example"])
def test_others_hear_nothing(origin: str | None) -> None:
    """No mark, and a preflight goes to the application like any OPTIONS."""
    for method in ("GET", "OPTIONS"):
        answer = ask(method, origin, **{"access-control-request-method": "POST"})
        assert answer.text == "in"
        assert not [name for name in answer.headers if name.startswith("access-control")]
