"""Who of several equals goes first: bounds on load, weights, and what counts as equal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.balance import BOUND, SLACK, Member, arrange, gather, level, unread
from gateway.core.routing import Candidate, Price, Zone
from tests.fakes.scripted import upstream

seeds = st.integers(0, 2**32)
Choice = Callable[[Sequence[Member], random.Random], Member]


def member(name: str, in_flight: int = 0, weight: float = 1.0, **costs: float) -> Member:
    candidate = Candidate(upstream=upstream(name), in_flight=in_flight)
    return Member(candidate, weight, costs.pop("wait_s", 0.2), **costs)


def fills(choose: Choice, rng: random.Random, servers: int, mean: int, steps: int) -> float:
    """The mean, over time, of what the fullest has in flight, with about `mean` each. Every step
    one request comes and, once all are inside, one of them leaves."""
    inside: list[int] = []
    fullest = []
    for step in range(steps):
        count = Counter(inside)
        members = [member(str(at), count[at]) for at in range(servers)]
        inside.append(int(choose(members, rng).name))
        if len(inside) > servers * mean:
            inside.pop(rng.randrange(len(inside)))
        if step > steps // 2:
            fullest.append(max(Counter(inside).values()))
    return sum(fullest) / len(fullest)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seeds)
def test_two_choices_keep_the_fullest_near_the_mean(seed: int) -> None:
    """With ten servers and six in flight each, the fullest has at most two more than the mean,
    and at most seven tenths of what random choice gives it beyond that."""

    def two(members: Sequence[Member], rng: random.Random) -> Member:
        return arrange(members, rng)[0][0]

    def one(members: Sequence[Member], rng: random.Random) -> Member:
        return rng.choice(members)

    ours = fills(two, random.Random(seed), 10, 6, 1500)
    theirs = fills(one, random.Random(seed), 10, 6, 1500)
    assert ours <= 6 + 2
    assert ours - 6 <= 0.7 * (theirs - 6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds, st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5))
def test_weights_are_shares(seed: int, weights: list[float]) -> None:
    """Idle or loaded, each gets its share of the requests, within a fifth of it and three sigma."""
    rng, total = random.Random(seed), sum(weights)
    for inside_at_once in (0, 40):
        inside: list[int] = []
        served: Counter[int] = Counter()
        rounds = 1500
        for _ in range(rounds):
            load = Counter(inside)
            members = [member(str(at), load[at], weight) for at, weight in enumerate(weights)]
            chosen = int(arrange(members, rng)[0][0].name)
            served[chosen] += 1
            inside.append(chosen)
            if len(inside) > inside_at_once:
                inside.pop(rng.randrange(len(inside)))
        for at, weight in enumerate(weights):
            share = weight / total
            tolerance = 0.2 * share + 3 * (share * (1 - share) / rounds) ** 0.5
            assert served[at] / rounds == pytest.approx(share, abs=tolerance)


members = st.lists(
    st.builds(
        lambda load, weight, wait, warm, cold, full: Member(
            Candidate(upstream=upstream("x"), in_flight=load, full=full), weight, wait, warm, cold
        ),
        st.integers(0, 500),
        st.floats(0.001, 1000),
        st.floats(0.001, 100),
        st.floats(0, 1e5),
        st.floats(0, 100),
        st.booleans(),
    ),
    min_size=2,
    max_size=8,
)


@given(members, seeds)
def test_nobody_is_lost_and_the_bound_holds(given: list[Member], seed: int) -> None:
    """An arrangement has the same members; its first is not full unless all are, and has no more
    in flight than the bound allows, whatever is warm there."""
    order, why = arrange(given, random.Random(seed))
    assert sorted(map(id, order)) == sorted(map(id, given))
    assert why in ("warm", "load")
    ready = [each for each in given if not each.candidate.full] or given
    first = order[0]
    assert any(first is each for each in ready)
    mean = sum(m.candidate.in_flight for m in ready) / sum(m.weight for m in ready)
    assert first.candidate.in_flight <= BOUND * mean * first.weight + SLACK + 1e-6


def test_warmth_wins_until_its_member_is_crowded() -> None:
    """The one that knows the prompt is asked although others are as idle; with ten requests more
    than they have, another is."""
    rng = random.Random(3)

    def first(load: int) -> set[tuple[str, str]]:
        crowd = [member(name, 8, cold_s=0.3) for name in "bcdef"]
        warm = member("a", load, warm=1500, cold_s=0.0)
        orders = [arrange([*crowd[:2], warm, *crowd[2:]], rng) for _ in range(30)]
        return {(order[0].name, why) for order, why in orders}

    assert first(8) == {("a", "warm")}
    assert not {("a", "warm")} & first(18)


def test_measured_noise_is_no_difference() -> None:
    """Paces that make less than half of a difference for the prompt are the fastest one's."""
    paces = [(0.1, 0.001), (0.2, 0.001), (0.5, 0.001)]
    assert level(paces, 0) == paces
    assert level(paces, 1000) == [(0.1, 0.001)] * 3
    assert level(paces, 500) == [(0.1, 0.001), (0.1, 0.001), (0.5, 0.001)]


def test_what_half_have_read_is_cheap_to_read_once_more() -> None:
    """Tokens that half of the members know count an eighth for the others; of two members each
    counts its own in full."""
    assert unread(1000, [800, 800, 0, 0]) == [200, 200, 300, 300]
    assert unread(1000, [900, 0, 0]) == [100, 1000, 1000]
    assert unread(1000, [900, 0]) == [100, 1000]
    assert unread(100, [400, 400, 400]) == [0, 0, 0]


def candidates(*upstreams: object) -> list[Candidate]:
    return [Candidate(upstream=each) for each in upstreams]  # type: ignore[arg-type]


def test_equals_find_each_other() -> None:
    """Same model, kind, tier, zone, price: equal. One difference, or no model's name: not."""
    plain = upstream("a", model="m", price=Price(input=1, output=2, as_of="2026-01"))
    twin = replace(plain, name="b", price=Price(input=1, output=2, as_of="2026-08"))
    differences: list[dict[str, object]] = [
        {"zone": Zone.ORGANISATION},
        {"price": Price(input=2, output=2)},
        {"price": None},
        {"model": "n"},
        {"kind": "other"},
        {"revision": "2"},
        {"bits": 4.0},
        {"approximate": True},
    ]
    others = [replace(plain, **change) for change in differences]  # type: ignore[arg-type]
    for other in others:
        assert gather(candidates(plain, other), None) == []
    (found,) = gather(candidates(plain, *others, twin), None)
    assert found == {0: 1.0, len(others) + 1: 1.0}
    assert gather(candidates(plain, twin), ()) == []
    nameless = [replace(plain, model=""), replace(twin, model="")]
    assert gather(candidates(*nameless), None) == []


def test_local_models_are_not_balanced_by_themselves() -> None:
    """Two entries for one file are two settings of it, and each takes memory: only if told so."""
    one = upstream("a", model="m", kind="llama_cpp")
    two = replace(one, name="b")
    assert gather(candidates(one, two), None) == []
    assert gather(candidates(one, two), [{"a": 1.0, "b": 3.0}]) == [{0: 1.0, 1: 3.0}]
