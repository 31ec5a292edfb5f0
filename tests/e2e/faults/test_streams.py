"""Rows 7 to 14: a stream that begins and goes wrong. Before the first word the next candidate
answers; after it the client gets one typed error and no [DONE], and what it was sent is true.
"""

from __future__ import annotations

import pytest

from tests.fakes.faults import fault
from tests.fakes.fronting import PATIENT, QUICK, misbehaving, run, until

CAP = 64 * 1024


async def falls_back(plan: str, result: str, **options: object) -> None:
    """Nothing of the fault is seen, and `good` answers."""
    async with misbehaving(fault(plan), **options) as (front, bad, _):
        answer = await front.ask()
        assert (answer.status, answer.text, answer.done) == (200, "one two", True)
        assert answer.error == {}
        assert await front.attempts(answer) == [("bad", result), ("good", "ok")]
        assert len(bad.requests) == 1
        await front.at_rest()


async def ends(plan: str, code: str, outcome: str, **options: object) -> None:
    """The first word is there, then a typed error, and nothing after it; nobody else is asked."""
    async with misbehaving(fault(plan), **options) as (front, _, good):
        answer = await front.ask()
        assert (answer.status, answer.text) == (200, "one")
        assert (answer.error["code"], answer.done) == (code, False)
        assert answer.error["type"] == "upstream_error"
        record = await front.record(answer)
        assert record["outcome"] == outcome
        assert record["usage"]["completion_tokens"] > 0  # what was said is paid for
        assert record["finish_reason"] is None
        assert good.requests == []
        await front.at_rest()


@pytest.mark.parametrize("plan", ["hang-before-content", "comments", "blanks"])
def test_row_07_silence_before_the_first_content(plan: str) -> None:
    """Headers, the role chunk, comments and empty deltas are no content: the next one answers."""
    # By the clock, or by the bound on frames that are held.
    run(falls_back(plan, "timeout", timeouts=QUICK))


@pytest.mark.parametrize("plan", ["hang-midway", "comments-midway", "blanks-midway"])
def test_row_08_silence_after_content(plan: str) -> None:
    """Comments and empty deltas do not keep a stalled answer alive."""
    run(ends(plan, "upstream_timeout", "timeout", timeouts={**PATIENT, "idle": 0.3}))


def test_row_09_reset_midway() -> None:
    """A RST after a word is a truncated answer; its place is free."""
    run(ends("reset-midway", "upstream_broken", "truncated"))


def test_row_10_cut_within_a_chunk() -> None:
    """A chunked body that is cut is a truncated answer."""
    run(ends("cut-chunk", "upstream_broken", "truncated"))


def test_row_11_an_end_that_looks_like_one() -> None:
    """A body until close without finish or [DONE] is a truncated answer."""
    run(ends("silent-end", "upstream_broken", "truncated"))


def test_row_09_10_11_are_not_kept() -> None:
    """A truncated answer is not served again: the same question is asked again."""

    async def story() -> None:
        for plan in ("reset-midway", "cut-chunk", "silent-end"):
            async with misbehaving(fault(plan), cache=True) as (front, bad, _):
                for _ in range(2):
                    answer = await front.ask(temperature=0)
                    assert answer.error["code"] == "upstream_broken"
                    assert answer.headers["x-tandem-cache"] == "miss"
                assert len(bad.requests) == 2

    run(story())


def test_row_12_malformed_before_content() -> None:
    """A malformed event before the first word is the next candidate's turn."""
    run(falls_back("malformed-first", "reset"))


@pytest.mark.parametrize("plan", ["malformed", "not-utf8"])
def test_row_12_malformed_after_content(plan: str) -> None:
    """After the first word it is a typed error, and none of its bytes are relayed."""
    run(ends(plan, "upstream_broken", "truncated"))

    async def story() -> None:
        async with misbehaving(fault(plan)) as (front, _, _good):
            answer = await front.ask()
            assert b"evil" not in answer.raw
            assert b"\xff" not in answer.raw
            assert b"never" not in answer.raw

    run(story())


@pytest.mark.parametrize("ending", ["", "lf", "cr"])
def test_row_13_one_byte_at_a_time(ending: str) -> None:
    """Cut inside UTF-8, line endings and events, the answer is the upstream's, to the byte."""

    async def story() -> None:
        async with misbehaving(fault(f"split:{ending}")) as (front, _, good):
            answer = await front.ask()
            assert (answer.text, answer.done, answer.error) == ("naïve 😀 日本", True, {})
            assert (await front.record(answer))["usage"]["completion_tokens"] == 4
            assert good.requests == []

    run(story())


def test_row_14_a_line_without_end() -> None:
    """It is cut off at the cap, with a typed error, and the upstream's connection is closed."""
    run(ends("endless-line", "upstream_too_large", "truncated", max_event_bytes=CAP))

    async def story() -> None:
        async with misbehaving(fault("endless-line"), max_event_bytes=CAP) as (front, bad, _):
            answer = await front.ask()
            assert len(answer.raw) < CAP
            await until(bad.hung_up.is_set)

    run(story())
