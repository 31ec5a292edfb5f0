"""Balancing through the whole pipeline, in virtual time: warmth, load, weights, failures."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.chat import Message
from gateway.core.errors import TandemError
from gateway.core.exchange import Caller
from gateway.core.routing import Tier, Zone
from gateway.plan import Alias
from router_policies.base import Rule, Settings
from router_policies.rules import RulesPolicy
from tests.fakes import virtual_time
from tests.fakes.caching import CachingBox, boxes
from tests.fakes.harness import Harness, Kept, exchange, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream

seeds = st.integers(0, 2**32)
few = settings(max_examples=4, deadline=None, derandomize=True)


class Story:
    """Conversations over a group of boxes. `groups=()` asks them in their order; `shuffle` asks
    them at random, as a balancer without memory does.
    """

    def __init__(self, group: list[CachingBox], *, seed: int, **options: Any) -> None:
        self.group = group
        self.rng = random.Random(seed)
        clock = asyncio.get_running_loop().time
        self.begun = 0
        self.harness = Harness(group, limit=5000, clock=clock, seed=seed, **options)

    async def ask(self, texts: list[str]) -> str:
        """One turn; who answered it, "" if nobody did."""
        turns = tuple(Message(role="user", text=text) for text in texts)
        asked = exchange(messages=turns)
        asked.arrived = asyncio.get_running_loop().time()
        try:
            reply = await self.harness.pipeline.answer(asked)
            await reply.events.into(Kept())
            await reply.events.aclose()
        except TandemError:
            return ""
        return str(reply.upstream)

    async def converse(self, turns: int, system: str = "") -> list[str]:
        """A conversation of so many turns, each some hundred tokens longer; who answered each."""
        self.begun += 1
        number = self.begun
        texts, who = [system] if system else [], []
        for turn in range(turns):
            texts.append(f"{number}.{turn} " + "w" * self.rng.randrange(300, 1500))
            who.append(await self.ask(texts))
            texts.append("answer " + "a" * 200)
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))
        return who

    async def crowd(self, conversations: int, turns: int, system: str = "") -> list[list[str]]:
        """Conversations that begin one after the other and then run side by side."""
        await self.harness.fleet.look()
        running = []
        for _ in range(conversations):
            running.append(asyncio.create_task(self.converse(turns, system)))
            await asyncio.sleep(self.rng.expovariate(2))
        return await asyncio.gather(*running)

    @property
    def hit_rate(self) -> float:
        """Prompt tokens that were cached, of all that were read."""
        return sum(box.cached for box in self.group) / sum(box.read for box in self.group)


@few
@given(seeds)
def test_conversations_stay_warm_and_the_load_even(seed: int) -> None:
    """Of eight-turn conversations over four boxes, more than 90 % of the later turns go to the box
    of the turn before, and no box gets more than 1.4 times the mean."""

    async def story() -> None:
        told = Story(boxes(4), seed=seed)
        who = await told.crowd(60, 8)
        pairs = [(a, b) for each in who for a, b in zip(each, each[1:], strict=False)]
        assert sum(a == b for a, b in pairs) > 0.9 * len(pairs)
        counts = [len(box.calls) for box in told.group]
        assert max(counts) <= 1.4 * sum(counts) / len(counts)
        assert {record.balance for record in told.harness.records} == {"warm", "load"}

    virtual_time.run(story())


@few
@given(seeds)
def test_warmth_saves_reading(seed: int) -> None:
    """Beside the same conversations asked at random, a fraction of the tokens is read."""

    async def cold(affine: bool) -> int:
        told = Story(boxes(4), seed=seed)
        if not affine:
            told.harness.pipeline.planner.balancer.prefixes.warm = lambda prefix: {}  # type: ignore[method-assign]
        await told.crowd(40, 8)
        return sum(box.read - box.cached for box in told.group)

    assert virtual_time.run(cold(True)) < 0.6 * virtual_time.run(cold(False))


@few
@given(seeds)
def test_a_hot_prefix_melts_nobody(seed: int) -> None:
    """When every conversation begins with the same long text and there is much to do, others learn
    it as well: the box with most gets at most 1.6 times the mean, at least three work, and it is
    hardly ever read again."""

    async def story() -> None:
        told = Story(boxes(4), seed=seed)
        for box in told.group:
            box.answer_s = 8.0
        await told.crowd(120, 4, system="s" * 12_000)
        counts = [len(box.calls) for box in told.group]
        mean = sum(counts) / len(counts)
        assert max(counts) <= 1.6 * mean
        assert sum(count > 0.5 * mean for count in counts) >= 3
        assert told.hit_rate > 0.8

    virtual_time.run(story())


@few
@given(seeds)
def test_a_failed_member_hands_its_conversations_to_all(seed: int) -> None:
    """While one of four is down nobody goes without an answer, its conversations spread over the
    three others, and once back it gets its share of the new ones."""

    async def story() -> None:
        told = Story(boxes(4), seed=seed)
        lost, *others = told.group
        who = await told.crowd(30, 4)
        assert any(lost.upstream.name in each for each in who)
        lost.broken = True
        for box in told.group:
            box.calls.clear()
        who = await told.crowd(60, 4)
        assert all(name and name != lost.upstream.name for each in who for name in each)
        counts = [len(box.calls) for box in others]
        assert max(counts) <= 1.6 * sum(counts) / 3
        lost.broken = False
        await asyncio.sleep(400)
        who = await told.crowd(60, 4)
        share = sum(name == lost.upstream.name for each in who for name in each) / 240
        assert 0.1 < share < 0.45

    virtual_time.run(story())


@few
@given(seeds)
def test_a_slow_member_gets_less(seed: int) -> None:
    """A box that reads ten times slower is given less than half of its even share."""

    async def story() -> None:
        told = Story(boxes(3), seed=seed)
        slow = told.group[0]
        slow.token_s = 10 * CachingBox.token_s
        await told.crowd(100, 3)
        assert len(slow.calls) < 0.5 * 300 / 3

    virtual_time.run(story())


def test_a_cache_that_keeps_nothing_does_not_bind() -> None:
    """Where an upstream's own usage says that little was cached, warmth there is worth little."""

    async def story() -> None:
        told = Story(boxes(2), seed=5)
        forgetful = told.group[0]
        await told.crowd(20, 5)
        before = told.harness.pipeline.planner.balancer.pace("box-0").keeps
        for _ in range(200):
            forgetful.kept.clear()
            await told.converse(2)
        after = told.harness.pipeline.planner.balancer.pace("box-0").keeps
        assert before > 0.7
        assert after <= before

    virtual_time.run(story())


def one_of_two(name: str, **changes: object) -> ScriptedBackend:
    return ScriptedBackend(upstream(name, model="same", **changes), saying(name))


def test_off_keeps_the_order() -> None:
    """Without groups the alias's own order stands; with them equals take turns."""
    fixed = Harness([one_of_two("a"), one_of_two("b")], groups=())
    assert {run(fixed.answer()) for _ in range(20)} == {"a"}
    free = Harness([one_of_two("a"), one_of_two("b")])
    assert {run(free.answer()) for _ in range(20)} == {"a", "b"}
    assert {record.balance for record in fixed.records} == {"only"}
    assert {record.balance for record in free.records} == {"load"}


def test_a_pin_and_a_rule_to_one_upstream_hold() -> None:
    """Who asks for one upstream by name gets it, and so does a rule; a rule to an alias shares."""
    harness = Harness([one_of_two("a"), one_of_two("b")])
    planner = harness.pipeline.planner
    assert {run(harness.answer("b")) for _ in range(20)} == {"b"}

    def ruled(use: str) -> set[str]:
        matching: Any = type("Always", (), {"matches": lambda self, facts: True})()
        settings = Settings(
            rules=(Rule(name="r", when=matching, use=use),), aliases={"auto": ("a", "b")}
        )
        alias = Alias(candidates=("a", "b"), policy=RulesPolicy(settings))
        planner.rulebook = replace(planner.rulebook, aliases={"auto": alias}, led={"r": use})
        return {run(harness.answer()) for _ in range(20)}

    assert ruled("b") == {"b"}
    assert ruled("auto") == {"a", "b"}


def test_a_zone_comes_first() -> None:
    """A group over two zones never brings back what the request's zone has removed, however warm
    it is there and however full the other."""
    near = one_of_two("near", zone=Zone.MACHINE, tier=Tier.LOCAL)
    harness = Harness([near, one_of_two("far")], groups=[{"near": 0.001, "far": 1000.0}])
    assert "far" in {run(harness.answer()) for _ in range(20)}
    far = len(harness.backends["far"].calls)
    private = Caller(zone=Zone.MACHINE)
    assert {run(harness.answer(caller=private)) for _ in range(20)} == {"near"}
    assert len(harness.backends["far"].calls) == far


def test_weights_share_the_requests() -> None:
    """An explicit group gives each its part, also of upstreams that are not alike."""
    group = [ScriptedBackend(upstream(name), saying(name)) for name in ("a", "b", "c")]
    harness = Harness(group, groups=[{"a": 3.0, "b": 1.0}])
    counts = Counter(run(harness.answer()) for _ in range(400))
    assert counts["a"] == pytest.approx(300, abs=40)
    assert counts["b"] == pytest.approx(100, abs=40)
    assert counts["c"] == 0


def test_what_is_behind_the_first_is_balanced_too() -> None:
    """When the first choice fails, its group is the next to be asked, and only then the others."""

    async def story() -> None:
        group = boxes(3)
        told = Story(group, seed=1)
        await told.harness.fleet.look()
        plan = await told.harness.pipeline.planner.plan(exchange())
        assert len({each.upstream.name for each in plan.route.candidates}) == 3
        assert plan.balanced is not None
        assert [m.name for m in plan.balanced.groups[0]] == [
            each.upstream.name for each in plan.route.candidates
        ]

    virtual_time.run(story())
