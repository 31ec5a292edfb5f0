"""The controller: formulas against small exact sums, and decisions against what was measured."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from backends.speculative.controller import (
    FIRST_PAUSE,
    LEAST_CHANCE,
    LONGEST_PAUSE,
    PROBE_TOKENS,
    REFRESH,
    SOONEST,
    Estimates,
    Observation,
    Span,
    abandons,
)
from backends.speculative.formulas import (
    best_width,
    expected_tokens,
    never_idle_gain,
    never_idle_in_passes,
    never_idle_rate,
    pipelined_rate,
    sync_rate,
)


def at(seconds_a_token: float) -> Span:
    return Span(tokens=100, seconds=100 * seconds_a_token)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize("drafted", [0, 1, 8])
def test_expected_tokens_is_the_geometric_sum(alpha: float, drafted: int) -> None:
    """A(k) is 1 + α + … + α^k."""
    assert expected_tokens(alpha, drafted) == pytest.approx(
        sum(alpha**i for i in range(drafted + 1))
    )


@pytest.mark.parametrize(
    ("target_s", "draft_s", "rtt_s", "alpha", "sync", "pipelined", "never_idle"),
    [
        # speculation.md section 5: a 30 tok/s target with a 200 tok/s draft
        (1 / 30, 1 / 200, 0.002, 0.75, 1.8, 2.4, 2.5),
        (1 / 30, 1 / 200, 0.020, 0.85, 1.8, 2.6, 2.7),
        (1 / 30, 1 / 200, 0.150, 0.85, 0.80, 1.0, 1.4),
        # a 50 tok/s target with a 150 tok/s draft
        (1 / 50, 1 / 150, 0.020, 0.85, 1.1, 1.6, 1.7),
        (1 / 50, 1 / 150, 0.060, 0.95, 1.2, 1.9, 2.0),
    ],
)
def test_the_published_table(
    target_s: float,
    draft_s: float,
    rtt_s: float,
    alpha: float,
    sync: float,
    pipelined: float,
    never_idle: float,
) -> None:
    """The closed forms give the speed-ups that the design page prints, to its rounding."""
    best_sync = min(sync_rate(alpha, k, draft_s, rtt_s, target_s) for k in range(1, 65))
    assert target_s / best_sync == pytest.approx(sync, rel=0.05)
    piped = target_s / pipelined_rate(alpha, draft_s, rtt_s, target_s)
    assert piped == pytest.approx(pipelined, rel=0.05)
    idle = target_s / never_idle_rate(alpha, target_s, draft_s, rtt_s)
    assert idle == pytest.approx(never_idle, rel=0.05)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("rtt_s", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("draft_s", [0.001, 0.019, 0.02, 0.5])
def test_never_idle_never_loses(alpha: float, rtt_s: float, draft_s: float) -> None:
    """Whatever the link and the drafter, the formula is at most the target's own rate."""
    assert never_idle_rate(alpha, 0.02, draft_s, rtt_s) <= 0.02


def test_best_width() -> None:
    """Free verification wants width, verification that costs by the row wants none."""
    flat = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}
    linear = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}
    assert best_width(0.8, flat) == 8
    assert best_width(0.8, linear) == 1
    assert Estimates(alpha=0.8, verify_s=linear).ahead(8) == 0
    assert Estimates(alpha=0.8, verify_s=flat).ahead(5) == 5
    assert Estimates().ahead(5) == 5


def test_the_first_answer_finds_out() -> None:
    """An unknown pair drafts for the length of a probe; short answers measure plain next."""
    unknown = Estimates()
    assert unknown.draft_tokens() == PROBE_TOKENS
    half_known = unknown.after(Observation(drafting=at(0.02)))
    assert half_known.draft_tokens() == 0
    assert half_known.gain is None


def test_drafting_that_pays_is_kept() -> None:
    """A gain turns drafting on for whole answers."""
    known = Estimates().after(Observation(drafting=at(0.01), plain=at(0.02)))
    assert known.gain == pytest.approx(2.0)
    assert known.on
    assert known.draft_tokens() is None


def test_drafting_that_costs_is_stopped() -> None:
    """A loss turns it off, and keeps it off but for rare probes."""
    known = Estimates().after(Observation(drafting=at(0.02), plain=at(0.01)))
    assert not known.on
    assert known.draft_tokens() == 0


def test_a_gain_beyond_the_tokens_of_a_pass_is_noise() -> None:
    """With one token a pass, a clock that shows twice the speed shows a neighbour leaving."""
    lucky = Observation(drafting=Span(tokens=100, seconds=1, passes=98), plain=at(0.02))
    known = Estimates().after(lucky)
    assert known.gain == pytest.approx(100 / 98)
    assert not known.on


def test_one_probe_decides_nothing() -> None:
    """A few dozen tokens under an unknown load are looked at again before they count."""
    probe = Observation(drafting=Span(tokens=23, seconds=0.2, passes=8), plain=at(0.02))
    known = Estimates()
    probes = 0
    while known.gain is None:
        assert known.draft_tokens() == PROBE_TOKENS
        assert not known.on
        known = known.after(probe)
        probes += 1
    assert probes == 3
    assert known.on


def test_between_the_thresholds_the_last_decision_holds() -> None:
    """A gain of 1.05 neither starts drafting nor stops it."""
    small = Observation(drafting=at(1 / 1.05), plain=at(1.0))
    assert not Estimates().after(small).on
    running = Estimates(on=True, drafting=at(1 / 1.05), plain=at(1.0))
    assert running.after(small).on


def test_probes_grow_rare() -> None:
    """While drafting stays a loss, the pause between probes doubles up to its bound."""
    plain, lost = Observation(plain=at(0.01)), Observation(drafting=at(0.02), plain=at(0.01))
    known = Estimates().after(lost)
    pauses = []
    for _ in range(8):
        waited = 0
        while known.draft_tokens() == 0:
            known = known.after(plain)
            waited += 1
        pauses.append(waited)
        known = known.after(lost)
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_probe_that_gains_turns_it_on_again() -> None:
    """What changed since (a quieter machine) is noticed by the next probe."""
    known = replace(
        Estimates().after(Observation(drafting=at(0.02), plain=at(0.01))), since_probe=99
    )
    assert known.draft_tokens() == PROBE_TOKENS
    for _ in range(6):
        known = known.after(Observation(drafting=at(0.005), plain=at(0.01)))
    assert known.on


def test_plain_is_measured_again_while_drafting() -> None:
    """Every so often an answer drafts only in its beginning, so that the comparison stays true."""
    gains = Observation(drafting=at(0.01))
    known = Estimates().after(Observation(drafting=at(0.01), plain=at(0.02)))
    answers = 0
    while known.draft_tokens() is None:
        known = known.after(gains)
        answers += 1
    assert answers == REFRESH
    assert known.draft_tokens() == PROBE_TOKENS
    assert known.after(Observation(drafting=at(0.01), plain=at(0.02))).draft_tokens() is None


def test_short_passes_must_beat_the_target_without_a_session() -> None:
    """What a session's undrafted end took is no measure there: the plain stream is asked first."""
    session = Observation(drafting=at(0.0015), plain=at(0.0018))
    known = Estimates().after(session)
    assert known.gain == pytest.approx(1.2)
    assert not known.needs_session, "it has yet to be seen what the target does alone"
    lost = known.after(Observation(alone=at(0.0014)))
    assert lost.gain == pytest.approx(1.4 / 1.5)
    assert not lost.on
    assert not lost.needs_session
    won = known.after(Observation(alone=at(0.0017)))
    assert won.on
    assert won.needs_session


def test_short_passes_are_measured_alone_ever_less_often() -> None:
    """After 2, 4, 8 … drafted answers that gained, one without a session."""
    known = Estimates().after(Observation(drafting=at(0.001), plain=at(0.002)))
    alone, drafted = Observation(alone=at(0.002)), Observation(drafting=at(0.001))
    known = known.after(alone)
    runs = []
    for _ in range(6):
        answers = 0
        while known.needs_session:
            known = known.after(drafted)
            answers += 1
        runs.append(answers)
        known = known.after(alone)
    assert runs[0] <= 4
    assert runs == sorted(runs)
    assert runs[-1] == runs[-2] == REFRESH


def test_long_passes_keep_their_session() -> None:
    """Beside 20 ms a session costs nothing, and it watches the link."""
    known = Estimates().after(Observation(drafting=at(0.04), plain=at(0.02)))
    assert known.draft_tokens() == 0
    assert known.needs_session


def test_acceptance_is_a_moving_average() -> None:
    """α follows accepted over drafted, and answers without drafts leave it alone."""
    known = Estimates().after(Observation(drafted=10, accepted=8))
    assert known.alpha == pytest.approx(0.8)
    assert known.after(Observation()).alpha == pytest.approx(0.8)
    assert known.after(Observation(drafted=10, accepted=0)).alpha == pytest.approx(0.65)
    many = Observation(drafted=160, accepted=0)
    assert known.after(many).alpha == pytest.approx(0.56), "sixteen trials count in full"


def test_predicted_gain_uses_the_formula() -> None:
    """Before drafting was ever realised, section 5 predicts."""
    known = Estimates(alpha=0.85, plain=at(0.02), draft_s=1 / 150, rtt_s=0.02)
    assert known.predicted_gain == pytest.approx(1.7, rel=0.1)
    assert Estimates(alpha=0.85).predicted_gain is None


def test_spans_that_say_nothing() -> None:
    """Neither a handful of tokens nor a burst that was held up moves an average."""
    known = Span().after(at(0.02))
    assert known.after(Span(tokens=5, seconds=5.0)) == known
    assert known.after(Span(tokens=100, seconds=0.001)) == known
    assert known.after(at(0.01)).rate == pytest.approx((0.7 * 2 + 1) / 170)


def test_an_answer_gives_up_after_three_lost_windows() -> None:
    """One slow window may be a busy neighbour; three in a row are not."""
    assert not abandons([2.0, 2.0], 1.0)
    assert abandons([0.5, 2.0, 2.0, 2.0], 1.0)
    assert not abandons([2.0, 0.5, 2.0], 1.0)
    assert not abandons([2.0, 2.0, 2.0], None)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 0.99])
@pytest.mark.parametrize("rtt_s", [0.0, 0.02, 0.15, 1.0])
@pytest.mark.parametrize(("target_s", "draft_s"), [(0.01, 0.005), (0.02, 0.0067), (0.02, 0.03)])
def test_whole_passes_cost_more_than_a_continuum(
    alpha: float, rtt_s: float, target_s: float, draft_s: float
) -> None:
    """The form in passes lies between the closed one, which lets drafts in at any time, and the
    target's own rate."""
    exact = never_idle_in_passes(alpha, target_s, draft_s, rtt_s, most=1000)
    assert exact <= target_s * (1 + 1e-6)
    assert exact >= never_idle_rate(alpha, target_s, draft_s, rtt_s) * (1 - 1e-6)


def test_whole_passes_against_counting() -> None:
    """One cycle after another, with coins tossed: the rate is what the form says."""
    alpha, target_s, draft_s, rtt_s, most = 0.8, 0.02, 0.006, 0.03, 8
    coins = random.Random(7)
    tokens = seconds = 0.0
    for _ in range(20_000):
        hits = 0
        while coins.random() < alpha:
            hits += 1
        settled = passes = 0
        while True:
            arrived = math.floor((passes * target_s - rtt_s - draft_s / 2) / draft_s)
            passes += 1
            usable = min(arrived, hits, settled + most)
            settled = max(settled, usable) + 1
            if settled > hits:
                break
        tokens += hits + 1
        seconds += passes * target_s
    expected = never_idle_in_passes(alpha, target_s, draft_s, rtt_s, most)
    assert seconds / tokens == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("misses", [1e-3, 1e-6, 1e-9, 1e-15, 0.0])
def test_drafts_that_nearly_always_hold_are_summed_in_bounded_time(misses: float) -> None:
    """As acceptance nears 1 the rate nears the slower of drafting and of passes that are full; the
    sum has as many terms as tokens lie between two misses, and is not gone through."""
    drafter = never_idle_in_passes(1 - misses, 0.03, 0.025, 0.05)
    assert drafter == pytest.approx(0.025, rel=0.01)
    full = never_idle_in_passes(1 - misses, 0.03, 0.001, 0.05, most=8)
    assert full == pytest.approx(0.03 / 9, rel=0.05)


def test_wide_passes_that_cost_are_charged() -> None:
    """Where verifying a row costs as much as a pass, the formula says so, below 1."""
    flat = never_idle_gain(0.85, 0.005, 0.0, {1: 0.02, 9: 0.02})
    linear = never_idle_gain(0.85, 0.005, 0.0, {1: 0.02, 9: 0.18})
    assert flat > 1.8
    assert linear < 1


def test_the_formula_decides_before_anything_was_realised() -> None:
    """A kind that never drafted goes on throughout, or not at all, by what the pair has shown."""
    fast = Estimates(alpha=0.85, plain=at(0.02), draft_s=0.005, rtts=(0.02,))
    assert fast.gain is None
    assert fast.draft_tokens() is None
    slow_link = replace(fast, rtts=(0.4,))
    assert slow_link.draft_tokens() == 0
    assert replace(fast, draft_s=0.03).draft_tokens() == 0, "a drafter slower than the target"
    waited = slow_link
    for _ in range(FIRST_PAUSE):
        assert waited.draft_tokens() == 0
        waited = waited.after(Observation(plain=at(0.02)))
    assert waited.draft_tokens() == PROBE_TOKENS, "and is looked at again now and then"


def test_the_round_trip_counts_at_its_ninetieth_hundredth() -> None:
    """One trip in eight that is slow decides; the median would have said yes."""
    trips = (*[0.01] * 7, 0.5)
    seen = Estimates(alpha=0.85, plain=at(0.02), draft_s=0.005, rtts=trips)
    assert seen.rtt(0.5) == 0.01
    assert seen.rtt(0.9) == 0.5
    assert seen.draft_tokens() == 0


def test_the_realised_corrects_the_formula() -> None:
    """Cores that are shared: what is realised falls short of the prediction, which learns it."""
    seen = Observation(
        drafting=at(0.025), plain=at(0.02), draft_s=0.005, rtt_s=0.01, drafted=80, accepted=70
    )
    known = Estimates()
    for _ in range(8):
        known = known.after(seen)
    assert known.predicted_gain is not None
    assert known.predicted_gain > 1.5
    assert known.expected_gain is not None
    assert known.expected_gain < 1.1
    assert known.draft_tokens() == 0


def test_a_faster_link_brings_the_next_probe_forward() -> None:
    """Off at a bad round trip; once the trips are short, it is tried before the pause is over."""
    lost = Observation(
        drafting=at(0.0201), plain=at(0.02), draft_s=0.005, rtt_s=0.5, drafted=80, accepted=70
    )
    known = Estimates().after(lost)
    for _ in range(SOONEST + 1):
        known = known.after(Observation(plain=at(0.02), rtt_s=0.5))
    assert known.draft_tokens() == 0
    assert known.since_probe < FIRST_PAUSE
    near = replace(known, rtts=(0.001,))
    assert near.draft_tokens() == PROBE_TOKENS


def test_the_lead_covers_the_round_trip() -> None:
    """What is drafted until a verdict is back: more at a longer trip, never beyond the limit."""
    near = Estimates(plain=at(0.02), draft_s=0.005, rtts=(0.0,))
    assert near.ahead(32) == 8
    assert replace(near, rtts=(0.04,)).ahead(32) == 16
    assert replace(near, rtts=(1.0,)).ahead(32) == 32
    assert Estimates().ahead(32, unmeasured=6) == 6


def test_the_break_even_is_what_a_row_costs() -> None:
    """Free rows are worth it at almost any chance, rows that cost a pass each at none."""
    free = Estimates(plain=at(0.02), verify_s={1: 0.02, 5: 0.02})
    dear = Estimates(plain=at(0.02), verify_s={1: 0.02, 5: 0.07})
    assert free.break_even() == LEAST_CHANCE
    assert dear.break_even() == pytest.approx(0.625)
    assert dear.break_even(cost_s=1.0) == 1.0
    assert Estimates().break_even() == LEAST_CHANCE


def test_missed_drafts_are_those_that_were_compared() -> None:
    """Of eight verified with the third wrong, two of three were right; the rest was never tried."""
    known = Estimates().after(Observation(drafted=8, accepted=2, missed=1))
    assert known.alpha == pytest.approx(2 / 3)
