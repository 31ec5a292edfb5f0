"""Rows 19 to 23: upstreams that say no, in HTTP. Whose fault it is decides what happens next."""

from __future__ import annotations

import logging

import pytest

from tests.fakes.faults import SPELLINGS, fault, ok
from tests.fakes.fronting import KEY, fronting, misbehaving, run
from tests.fakes.upstream import FakeUpstream, reply

RESTS_S = {
    "seconds": (7, 7),
    "date": (600, 600),  # far ahead: our own cap
    "ms": (1.5, 1.5),
    "azure-ms": (2.5, 2.5),
    "groq-tokens": (7.66, 7.66),
    "groq-requests": (179.56, 179.56),
    "none": (1, 1),
}
"""How long an upstream is left alone for each spelling, with room for the jitter of row 19."""


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_row_19_a_429_says_when_to_come_back(spelling: str) -> None:
    """Until then it is not asked and its breaker stays closed; alone, we say when in our words."""

    async def story() -> None:
        async with misbehaving(fault(f"throttled:{spelling}")) as (front, bad, good):
            for _ in range(3):
                assert (await front.ask()).text == "one two"
            assert (len(bad.requests), len(good.requests)) == (1, 3)
            (candidate,) = front.gateway.fleet.snapshot(["bad"])
            least, most = RESTS_S[spelling]
            assert least - 1 < candidate.rests_s <= most * 1.25
            assert front.gateway.fleet.vitals()["bad"].opened == 0
            alone = await front.ask("bad")
            assert alone.status in (429, 503)
            assert 1 <= int(alone.headers["retry-after"]) <= round(most * 1.25)
            assert len(bad.requests) == 1

    run(story())


def test_row_20_a_429_reaches_the_client_as_one() -> None:
    """When the only upstream throttles, the client gets a 429 in OpenAI's shape with our own
    Retry-After, and then is refused here, without a request to anybody."""

    async def story() -> None:
        async with misbehaving(fault("throttled:seconds")) as (front, bad, _):
            first = await front.ask("bad")
            assert (first.status, first.error["code"]) == (429, "rate_limit_exceeded")
            assert int(first.headers["retry-after"]) >= 1
            for _ in range(20):
                again = await front.ask("bad")
                assert again.status in (429, 503)
                assert int(again.headers["retry-after"]) >= 1
            assert len(bad.requests) == 1

    run(story())


@pytest.mark.parametrize("code", [500, 502, 503, 529])
def test_row_21_a_burst_is_answered_by_the_next(code: int) -> None:
    """Every request of a burst is answered by the next candidate; the failing one is asked at most
    until its breaker opens."""

    async def story() -> None:
        async with misbehaving(fault(f"status:{code}")) as (front, bad, _):
            for _ in range(12):
                answer = await front.ask()
                assert (answer.status, answer.text) == (200, "one two")
            assert len(bad.requests) <= 5

    run(story())


@pytest.mark.parametrize("code", [400, 404, 413, 422])
def test_row_22_the_clients_fault_is_told_once(code: int) -> None:
    """No retry, the upstream's status, our shape; whatever quotes the key is scrubbed."""

    async def story() -> None:
        said = {"error": {"message": f"bad field, Bearer {KEY}", "type": "x", "code": "y"}}
        async with misbehaving(reply(code, said, set_cookie="id=1")) as (front, bad, good):
            answer = await front.ask()
            assert answer.status == code
            assert "bad field" in answer.error["message"]
            assert KEY.encode() not in answer.raw
            assert "set-cookie" not in answer.headers
            assert (len(bad.requests), len(good.requests)) == (1, 0)

    run(story())


@pytest.mark.parametrize("code", [401, 403])
def test_row_22_a_refused_credential_pages(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """The next candidate answers, an error is logged, the upstream is left alone, and neither the
    log nor a client sees the key."""

    async def story() -> None:
        said = {"error": {"message": f"Incorrect API key: {KEY}"}}
        async with misbehaving(reply(code, said)) as (front, bad, _):
            for _ in range(3):
                assert (await front.ask()).text == "one two"
            assert len(bad.requests) == 1
            alone = await front.ask("bad")
            assert alone.status in (502, 503)
            assert KEY.encode() not in alone.raw

    with caplog.at_level(logging.INFO):
        run(story())
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "bad" in errors[0].getMessage()
    assert KEY not in caplog.text


def test_row_23_too_long_is_a_typed_error() -> None:
    """A context-length 400 keeps OpenAI's code, and nobody else is asked the same."""

    async def story() -> None:
        async with misbehaving(fault("too-long")) as (front, _, good):
            answer = await front.ask()
            assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
            assert answer.error["type"] == "invalid_request_error"
            assert answer.error["param"] == "messages"
            assert good.requests == []

    run(story())


@pytest.mark.parametrize(
    ("contexts", "asked"),
    [
        ((8192, 16384), ["bad", "good"]),
        ((None, 16384), ["bad", "good"]),
        ((8192, 8192), ["bad"]),
        ((8192, 4096), ["bad"]),
        ((8192, None), ["bad"]),
    ],
)
def test_row_23_more_context_where_the_alias_says_so(
    contexts: tuple[int | None, int | None], asked: list[str]
) -> None:
    """With `bigger_context` it goes to who is known to have more, and to nobody else; the error is
    the first one's where nobody has.
    """

    async def story() -> None:
        async with FakeUpstream(fault("too-long")) as bad, FakeUpstream(ok) as good:
            more = {
                name: {"kind": "openai", "profile": "openai", "base_url": url, "model": name}
                | ({"context": context} if context else {})
                for name, url, context in zip(
                    ("bad", "good"), (bad.base_url, good.base_url), contexts, strict=True
                )
            }
            alias = {"candidates": ["bad", "good"], "bigger_context": True}
            async with fronting({}, more=more, models={"auto": alias}) as front:
                answer = await front.ask()
                if "good" in asked:
                    assert (answer.status, answer.text) == (200, "one two")
                else:
                    assert answer.error["code"] == "context_length_exceeded"
                assert [name for name, _ in await front.attempts(answer)] == asked

    run(story())
