"""Rows 15 to 18: answers that are too much, or none at all. The next candidate answers."""

from __future__ import annotations

import pytest

from tests.fakes.faults import fault
from tests.fakes.fronting import misbehaving, run, until
from tests.fakes.upstream import FakeUpstream


async def falls_back(plan: str, *, stream: bool, **options: object) -> FakeUpstream:
    async with misbehaving(fault(plan), **options) as (front, bad, _):
        answer = await front.ask(stream=stream)
        assert (answer.status, answer.text, answer.error) == (200, "one two", {})
        attempts = await front.attempts(answer)
        assert [name for name, _ in attempts] == ["bad", "good"]
        assert attempts[0][1] != "ok"
        assert len(bad.requests) == 1
        await front.at_rest()
        return bad


@pytest.mark.parametrize("stream", [True, False])
def test_row_15_a_gzip_bomb(stream: bool) -> None:
    """We ask for `identity`; what comes compressed all the same is not decoded, and hung up on."""

    async def story() -> None:
        bad = await falls_back("gzip-bomb", stream=stream)
        assert bad.requests[0].headers["accept-encoding"] == "identity"
        await until(bad.hung_up.is_set)

    run(story())


def test_row_16_a_huge_body() -> None:
    """A whole answer beyond the cap is left at the cap: 502 `upstream_too_large`, or the next."""

    async def story() -> None:
        bad = await falls_back("huge-body", stream=False, max_body_bytes=100_000)
        await until(bad.hung_up.is_set)
        async with misbehaving(fault("huge-body"), max_body_bytes=100_000) as (front, _, _good):
            answer = await front.ask("bad", stream=False)
            assert (answer.status, answer.error["code"]) == (502, "upstream_too_large")
            assert answer.headers["x-should-retry"] == "false"

    run(story())


@pytest.mark.parametrize("plan", ["html", "json-error", "only-done"])
@pytest.mark.parametrize("stream", [True, False])
def test_row_17_no_answer_under_200(plan: str, stream: bool) -> None:
    """A login page, an error document and a stream of nothing are failures of the upstream's."""

    async def story() -> None:
        await falls_back(plan, stream=stream)

    run(story())


@pytest.mark.parametrize("stream", [True, False])
def test_row_18_a_redirect_is_not_followed(stream: bool) -> None:
    """Neither to another host nor to its own; pinned to it, the client gets a 502 without it."""

    async def story() -> None:
        await falls_back("redirect", stream=stream)
        async with FakeUpstream(fault("ok")) as elsewhere:
            plan = f"redirect:{elsewhere.base_url}/chat/completions"
            async with misbehaving(fault(plan)) as (front, _, _good):
                answer = await front.ask("bad", stream=stream)
                assert (answer.status, answer.error["code"]) == (502, "upstream_redirect")
                assert "location" not in answer.headers
                assert str(elsewhere.port) not in answer.error["message"]
            assert elsewhere.connections == 0

    run(story())
