"""The learned policy: utility, a kept share, and when it leaves a request to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routing import Candidate, Price, Tier, Upstream, Zone
from router_policies.base import Settings, Weights
from router_policies.learned.policy import LearnedPolicy
from router_policies.learned.utility import PRESETS, moved, worth


def candidate(
    name: str, tier: Tier, kind: str = "x", usd: float = 0.0, **changes: Any
) -> Candidate:
    """An upstream whose answers cost about `usd` each."""
    price = Price(input=usd * 1e6 / 256, output=usd * 1e6 / 256)
    upstream = Upstream(name=name, kind=kind, tier=tier, zone=Zone.PUBLIC, model=name, price=price)
    return Candidate(upstream=upstream, **changes)


NEAR = candidate("near", Tier.LOCAL)
FAR = candidate("far", Tier.CLOUD, usd=0.004)
PAIR = candidate("pair", Tier.SPECULATIVE, usd=0.004)
CASCADE = candidate("both", Tier.CLOUD, kind="cascade", usd=0.004)
ALL = [NEAR, FAR]


def facts(weak: float, strong: float, **more: Any) -> dict[str, Any]:
    return {
        "router.score": strong - weak,
        "router.weak_ok": weak,
        "router.strong_ok": strong,
        "router.novelty": 0.2,
        **{f"router.{name}": value for name, value in more.items()},
    }


def order(known: dict[str, Any], candidates: list[Candidate], **settings: Any) -> list[str]:
    route = LearnedPolicy(Settings(**settings)).choose(known, candidates)
    assert route is not None and route.reason == "learned"
    return [each.upstream.name for each in route.candidates]


def test_a_gain_must_be_worth_its_price() -> None:
    """The cloud is asked where it adds more quality than its price costs, and not where less."""
    assert order(facts(0.5, 0.9), ALL) == ["far", "near"]
    assert order(facts(0.85, 0.9), ALL) == ["near", "far"]


def test_an_alias_says_what_it_prefers() -> None:
    """The same request goes elsewhere for who wants it cheap, good or fast."""
    known = facts(0.5, 0.7)
    assert order(known, ALL, weights=PRESETS["cheap"])[0] == "near"
    assert order(known, ALL, weights=PRESETS["quality"])[0] == "far"
    slow = replace(NEAR, ttft_s=9.0)
    assert order(known, [slow, FAR], weights=PRESETS["balanced"])[0] == "far"
    assert order(facts(0.7, 0.7), [slow, FAR], weights=PRESETS["fast"])[0] == "far"


def test_energy_counts_where_it_is_weighed() -> None:
    """An upstream that draws more is worth less to who weighs energy."""
    hungry = replace(NEAR, upstream=replace(NEAR.upstream, name="hungry", watts=400.0))
    known = facts(0.5, 0.5)
    assert order(known, [hungry, NEAR], weights=Weights(price=0, latency=0, energy=1)) == [
        "near",
        "hungry",
    ]


def test_an_unknown_price_is_dear() -> None:
    """An upstream whose price nobody knows is not taken to be free."""
    unknown = replace(FAR, upstream=replace(FAR.upstream, name="unknown", price=None))
    said = worth(unknown, facts(0.5, 0.9), Weights(), {})
    assert said.usd is None
    assert said.utility < worth(candidate("x", Tier.CLOUD), facts(0.5, 0.9), Weights(), {}).utility


def test_abilities_move_chances() -> None:
    """A local model that was probed as able is trusted with more, a poor one with less."""
    known = facts(0.5, 0.7)
    assert order(known, ALL)[0] == "far"
    assert order(known, ALL, abilities={"near": 2.0})[0] == "near"
    assert moved(0.5, 0.0) == 0.5 and moved(1.0, -1.0) < 1 and moved(0.0, 1.0) > 0


def test_a_share_decides_the_side() -> None:
    """From the cut on the strong side goes first, below it the local one, whatever it costs."""
    assert order(facts(0.9, 0.9, rank=0.8, cut=0.7), [NEAR, FAR, PAIR])[-1] == "near"
    assert order(facts(0.1, 0.9, rank=0.6, cut=0.7), [FAR, NEAR])[0] == "near"


def test_the_unsure_go_to_a_cascade() -> None:
    """Near the cut a cascade goes first; far from it, it stays between the two sides."""
    three = [NEAR, FAR, CASCADE]
    assert order(facts(0.5, 0.9, rank=0.65, cut=0.7), three)[0] == "both"
    assert order(facts(0.5, 0.9, rank=0.95, cut=0.7), three) == ["far", "both", "near"]
    assert order(facts(0.5, 0.9, rank=0.1, cut=0.7), three) == ["near", "both", "far"]


def test_who_is_unsure_is_configured() -> None:
    """A wider band sends more to the cascade, one of nothing only what lies on the cut."""
    known, three = facts(0.5, 0.9, rank=0.5, cut=0.7), [NEAR, FAR, CASCADE]
    assert order(known, three)[0] == "near"
    assert order(known, three, unsure=0.25)[0] == "both"
    assert order(facts(0.5, 0.9, rank=0.69, cut=0.7), three, unsure=0.0)[0] == "near"


chances = st.floats(0, 1)


@given(
    weak=chances,
    strong=chances,
    weights=st.builds(
        Weights, price=st.floats(0, 300), latency=st.floats(0, 1), energy=st.floats(0, 2)
    ),
    kind=st.sampled_from(["x", "cascade", "race"]),
    tier=st.sampled_from(list(Tier)),
    usd=st.none() | st.floats(0, 1),
    watts=st.none() | st.floats(0, 500),
    wait=st.none() | st.floats(0, 60),
    gain=st.none() | st.floats(0.5, 4),
    ability=st.floats(-3, 3),
)
def test_the_terms_add_up(
    weak: float,
    strong: float,
    weights: Weights,
    kind: str,
    tier: Tier,
    usd: float | None,
    watts: float | None,
    wait: float | None,
    gain: float | None,
    ability: float,
) -> None:
    """What is told of an action is what it is ranked by: quality less three costs, none negative,
    each the weight times what is said to be used."""
    made = candidate("it", tier, kind, usd or 0.0, wait_s=wait, gain=gain)
    upstream = replace(made.upstream, watts=watts, price=made.upstream.price if usd else None)
    made = replace(made, upstream=upstream)
    known = facts(weak, strong) | {"prompt_tokens": 10}
    said = worth(made, known, weights, {"it": ability})
    assert said.utility == said.quality - said.price - said.latency - said.energy
    assert min(said.price, said.latency, said.energy) >= 0 and 0 <= said.quality <= 1
    assert said.latency == weights.latency * said.seconds
    assert said.energy == weights.energy * said.kilojoules
    if said.usd is not None:
        assert said.price == weights.price * said.usd
    route = LearnedPolicy(Settings(weights=weights, abilities={"it": ability})).choose(
        known, [made, NEAR]
    )
    assert route is not None and route.worth["it"] == said.utility


@pytest.mark.parametrize("share", [{}, {"rank": 0.9, "cut": 0.7}])
def test_a_cap_keeps_to_the_local_side(share: dict[str, float]) -> None:
    """Once the hour's money is spent, nothing but the local side goes first."""
    assert order(facts(0.1, 0.9, capped=True, **share), [FAR, PAIR, NEAR])[0] == "near"


def test_what_is_new_is_left_to_others() -> None:
    """A prompt of unknown words is nobody's to predict; a share still needs every prompt."""
    policy = LearnedPolicy(Settings(novelty_limit=0.8))
    assert policy.choose(facts(0.5, 0.9) | {"router.novelty": 0.9}, ALL) is None
    assert policy.choose(facts(0.5, 0.9, rank=0.1, cut=0.7) | {"router.novelty": 0.9}, ALL)
    assert policy.choose({}, ALL) is None


def test_what_is_down_comes_last() -> None:
    """Health goes before worth."""
    down = replace(FAR, healthy=False)
    full = replace(PAIR, full=True)
    assert order(facts(0.1, 0.9), [down, full, NEAR]) == ["near", "pair", "far"]


def test_a_queue_costs_its_wait() -> None:
    """Who wants it fast passes a local queue; where none is told, those in flight count."""
    known = facts(0.7, 0.7)
    fast = PRESETS["fast"]
    assert order(known, ALL, weights=fast)[0] == "near"
    assert order(known, [replace(NEAR, wait_s=6.0), FAR], weights=fast)[0] == "far"
    assert order(known, [replace(NEAR, in_flight=30), FAR], weights=fast)[0] == "far"
    told = replace(NEAR, in_flight=30, wait_s=0.0)
    assert order(known, [told, FAR], weights=fast)[0] == "near"


def test_drafting_counts_by_what_it_brings() -> None:
    """A speculative upstream is preferred for its speed where it has one, and only there."""
    known = facts(0.5, 0.9)
    fast = PRESETS["fast"]
    assert order(known, [FAR, replace(PAIR, gain=1.5)], weights=fast)[0] == "pair"
    assert order(known, [FAR, replace(PAIR, gain=1.0)], weights=fast)[0] == "far"


def test_a_race_is_one_more_candidate() -> None:
    """One that begins sooner than its first upstream alone is worth its price to who is in a hurry,
    and not to who counts cents."""
    known, quick = facts(0.5, 0.9), candidate("quick", Tier.CLOUD, kind="race", usd=0.006)
    slow, raced = replace(FAR, ttft_s=2.0), replace(quick, ttft_s=0.4)
    assert order(known, [NEAR, slow, raced], weights=PRESETS["fast"])[0] == "quick"
    cheap = order(known, [slow, raced], weights=PRESETS["cheap"])
    assert cheap[0] == "far"
