"""What a pair has learnt, by kind of request, and what drafting costs in signed dollars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.speculative.controller import Observation, Span
from backends.speculative.cost import Work, usd_delta
from backends.speculative.known import Kind, Known
from gateway.core.chat import Usage
from gateway.core.routing import Price
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.scripted import upstream

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
TEXT = {"model": "m", "prompt": "x"}
EDIT = {"prediction": {"type": "content", "content": "y"}}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (CHAT, Kind("chat", "hot")),
        ({**CHAT, "temperature": 0}, Kind("chat", "greedy")),
        ({**CHAT, "temperature": 0.5, **EDIT}, Kind("edit", "mild")),
        ({**TEXT, "temperature": 1.2}, Kind("completion", "hot")),
        ({**TEXT, "suffix": "z", "temperature": 0}, Kind("fim", "greedy")),
    ],
)
def test_requests_are_told_apart_by_task_and_temperature(
    body: dict[str, object], kind: Kind
) -> None:
    """Four tasks and three heats; OpenAI's default temperature is 1."""
    dialect = OpenAIChat() if "messages" in body else OpenAICompletions()
    assert Kind.of(dialect.decode(body, {})) == kind


def test_a_kind_has_its_own_acceptance_and_the_pairs_link() -> None:
    """Hot chat that fails does not switch off greedy completion that holds, and a new kind begins
    with what the pair has measured."""
    good, bad = Kind("completion", "greedy"), Kind("chat", "hot")
    plain = Span(tokens=100, seconds=2.0)
    seen = Observation(
        drafting=Span(tokens=100, seconds=1.0, passes=40),
        plain=plain,
        draft_s=0.005,
        rtt_s=0.02,
        drafted=60,
        accepted=57,
        missed=3,
    )
    lost = replace(seen, drafting=Span(tokens=100, seconds=2.4, passes=98), accepted=3, missed=57)
    known = Known().after(good, seen).after(bad, lost)
    assert known.of(good).draft_tokens() is None
    assert known.of(bad).draft_tokens() == 0
    fresh = known.of(Kind("fim", "mild"))
    assert (fresh.draft_s, fresh.rtts) == (0.005, (0.02, 0.02))
    assert fresh.alpha == known.pair.alpha
    assert fresh.gain is None


LOCAL = replace(upstream("draft"), price=None)
CLOUD = replace(upstream("cloud"), price=Price(input=1.0, output=4.0))
WORK = Work(drafted=100, draft_s=2.0, saved_passes=50, target_s=0.02)


def test_drafting_on_our_own_machine_is_free_unless_its_electricity_has_a_price() -> None:
    """No price: nothing. By the kilowatt-hour: watts times busy seconds; without watts, nobody
    knows."""
    assert usd_delta(WORK, draft=LOCAL, target=CLOUD) == 0.0
    metered = replace(LOCAL, price=Price(kwh=0.36), watts=100.0)
    assert usd_delta(WORK, draft=metered, target=CLOUD) == pytest.approx(200 / 3.6e6 * 0.36)
    assert usd_delta(WORK, draft=replace(metered, watts=None), target=CLOUD) is None


def test_verifying_that_is_billed_costs() -> None:
    """What the target charges beyond its answer counts in full, and can outweigh everything."""
    billed = replace(WORK, verified=Usage(prompt_tokens=1000, completion_tokens=10))
    assert usd_delta(billed, draft=LOCAL, target=CLOUD) == pytest.approx(0.00104)


def test_a_target_that_we_pay_by_the_second_saves() -> None:
    """Passes that were not made are electricity that was not used: below zero."""
    ours = replace(upstream("box"), price=Price(kwh=0.30), watts=700.0)
    saved = usd_delta(WORK, draft=LOCAL, target=ours)
    assert saved == pytest.approx(-700 * 1.0 / 3.6e6 * 0.30)
