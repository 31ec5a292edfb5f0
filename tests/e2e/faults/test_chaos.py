"""The network to an upstream: whatever TCP does, an answer is whole or says that it is not."""

from __future__ import annotations

import pytest

from tests.fakes.chaos import ChaosProxy, Toxics
from tests.fakes.faults import ok
from tests.fakes.fronting import QUICK, Front, fronting, run
from tests.fakes.upstream import FakeUpstream


async def through(toxics: Toxics, **options: object) -> list[tuple[str, dict[str, object], bool]]:
    """What a client gets of three answers through such a network, with nobody else to ask."""
    async with (
        FakeUpstream(ok) as upstream,
        ChaosProxy("127.0.0.1", upstream.port, toxics) as proxy,
        fronting({"far": f"http://127.0.0.1:{proxy.port}/v1"}, **options) as front,
    ):
        seen = [await _asked(front) for _ in range(3)]
        await front.at_rest()
        return seen


async def _asked(front: Front) -> tuple[str, dict[str, object], bool]:
    answer = await front.ask()
    return answer.text, answer.error, answer.done


@pytest.mark.parametrize("toxics", [Toxics(), Toxics(latency_s=0.02), Toxics(rate=20_000)])
def test_a_slow_network_changes_nothing(toxics: Toxics) -> None:
    """With latency and a low rate the answers are whole."""

    async def story() -> None:
        assert await through(toxics) == [("one two", {}, True)] * 3

    run(story())


@pytest.mark.parametrize("end", ["cut_after", "reset_after", "half_close_after"])
@pytest.mark.parametrize("at", [0, 40, 90, 250, 400])
def test_row_09_10_an_end_at_any_byte(end: str, at: int) -> None:
    """Cut, reset or half-closed in the head, between events or within one: what was said is a
    beginning of the answer, an error follows, and no [DONE] is made up."""

    async def story() -> None:
        for text, error, done in await through(Toxics(**{end: at})):
            assert "one two".startswith(text)
            assert (bool(error), done) == (True, False)

    run(story())


@pytest.mark.parametrize("at", [0, 40, 250])
def test_row_06_08_a_blackhole_at_any_byte(at: int) -> None:
    """A connection that stays open and carries nothing more ends by our own clocks."""

    async def story() -> None:
        for text, error, done in await through(Toxics(blackhole_after=at), timeouts=QUICK):
            assert "one two".startswith(text)
            assert error["code"] == "upstream_timeout"
            assert not done

    run(story())
