"""The controller's arithmetic: when a draft pays, by the costs and the odds."""

from __future__ import annotations

import random

from backends.engine.payoff import (
    OFF_GAIN,
    ON_GAIN,
    Choice,
    Costs,
    LiveCosts,
    Odds,
    best,
    could_pay,
    engages,
)

CPU = Costs.of({1: 1.0, 2: 2.3, 3: 3.0, 5: 4.2, 9: 5.6})
"""A 168M model in Q8_0 (design/engine.md 4)."""
GPU = Costs.of({1: 1.0, 2: 1.0, 3: 1.05, 5: 1.1, 9: 1.3})


def random_costs() -> Costs:
    seconds = 1.0
    table = {1: seconds}
    for width in (2, 3, 5, 9):
        seconds += random.random() * 2
        table[width] = seconds
    return Costs.of(table)


def test_the_design_tables_arithmetic() -> None:
    """Of five rows at 4.2 tokens' cost, four sure drafts gain 1.19; at 60 % they lose."""
    sure = best([1.0] * 4, CPU)
    assert sure.tokens == 4
    assert abs(sure.gain - 5 / 4.2) < 1e-9
    assert best([0.6] * 8, CPU) == Choice()
    assert best([0.6] * 8, GPU).gain > 1.5


def rate(chances: list[float], costs: Costs, rows: int, draft_s: float) -> float:
    """Tokens a second with all of these drafted."""
    expected, reached = float(rows), 1.0
    for chance in chances:
        reached *= chance
        expected += reached
    return expected / (costs(rows + len(chances)) + len(chances) * draft_s)


def test_the_choice_is_the_best_of_all() -> None:
    """No number of drafts, 0 included, yields more tokens a second than the one chosen."""
    random.seed(1)
    for _ in range(300):
        costs, draft_s, rows = random_costs(), random.random(), random.randrange(1, 6)
        chances = [random.random() for _ in range(8)]
        rates = [rate(chances[:k], costs, rows, draft_s) for k in range(9)]
        choice = best(chances, costs, rows=rows, draft_s=draft_s)
        assert rates[choice.tokens] >= max(rates) - 1e-9
        assert abs(choice.gain - max(rates) / rates[0]) < 1e-9


def test_better_odds_and_cheaper_rows_never_gain_less() -> None:
    """The gain grows with every chance, and falls with a drafter's cost and a fuller batch."""
    random.seed(2)
    for _ in range(200):
        costs = random_costs()
        chances = [random.random() for _ in range(8)]
        better = [chance + (1 - chance) * random.random() for chance in chances]
        gain = best(chances, costs).gain
        assert best(better, costs).gain >= gain
        assert best(chances, costs, draft_s=0.3).gain <= gain


def test_padding_is_free_to_fill() -> None:
    """A strict sequence pays for two rows anyway: one draft token costs it nothing."""
    assert best([0.5], CPU, least=2).gain == 1.5
    assert best([0.5], CPU).tokens == 0


def test_hysteresis() -> None:
    """Drafting begins at a tenth gained, and goes on until hardly anything is."""
    between = Choice(3, (ON_GAIN + OFF_GAIN) / 2)
    assert not engages(between, engaged=False)
    assert engages(between, engaged=True)
    assert not engages(Choice(3, OFF_GAIN - 0.01), engaged=True)
    assert not engages(Choice(), engaged=True)


def test_a_full_batch_and_dear_rows_rule_drafts_out() -> None:
    """Where even sure drafts would not pay, nobody need look for one."""
    linear = Costs.of({1: 1.0, 2: 2.0, 9: 9.0})
    assert not could_pay(linear, rows=1, most=8)
    assert could_pay(CPU, rows=1, most=8)
    assert not could_pay(CPU, rows=64, most=8)
    assert not could_pay(CPU, rows=1, most=8, draft_s=1.0)


def test_costs_go_on_in_straight_lines_and_never_fall() -> None:
    """Between two widths and beyond the last; a wide pass that looked cheaper was noise."""
    costs = Costs.of({1: 1.0, 2: 0.8, 4: 2.0})
    assert [costs(rows) for rows in (1, 2, 3, 4, 6)] == [1.0, 1.0, 1.5, 2.0, 3.0]
    assert costs.relative(4) == 2.0


def test_what_passes_take_corrects_what_was_measured() -> None:
    """Wide passes that turn out dearer beside plain ones raise their cost, a slower machine does
    not, and what is not tried any more returns to what was measured."""
    live = LiveCosts(CPU)
    for _ in range(200):
        live.note(1, 3.0, drafted=False)  # everything takes three times as long
        live.note(9, 3.0 * 5.6, drafted=True)
    assert abs(live(9) / live(1) - 5.6) < 0.3
    for _ in range(100):
        live.note(9, 3.0 * 5.6 * 1.5, drafted=True)
    assert live(9) / live(1) > 8
    assert best([0.95] * 8, live).tokens < 8
    for _ in range(LiveCosts.RETURN_EVERY * 60):
        live.note(1, 3.0, drafted=False)
    assert abs(live(9) / live(1) - 5.6) < 0.3


def test_odds_follow_what_is_seen() -> None:
    """From the prior to the evidence, and to newer evidence when it changes."""
    odds = Odds(prior=0.5)
    assert odds.chance == 0.5
    odds.see(60, 0)
    assert odds.chance > 0.9
    odds.see(0, 100)
    assert odds.chance < 0.2
