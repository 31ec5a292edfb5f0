"""Does verifying a draft pay, and how long should it be? Measures in, a width out; pure.

A pass over `rows` sequences costs T(rows) and yields `rows` tokens. With k draft tokens more it
costs T(rows + k), and k times what drafting a token takes, and yields the drafts that hold besides:
the draft pays if the tokens grow more than the cost does (design/engine.md 4). T is measured when a
model is loaded: on a CPU a second row can cost as much as the first, on a GPU next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ON_GAIN = 1.10
"""Drafting begins above this (DESIGN 6) and ends below OFF_GAIN; between them what was goes on."""
OFF_GAIN = 1.05
MOST_ROWS = 16
"""With more sequences in a batch than this nobody drafts: the batch fills the machine already."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a decode by its rows, as measured at some widths; between them a straight line."""

    widths: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, measured: Mapping[int, float]) -> Costs:
        """More rows never cost less: what says so was noise, and would look like a gift."""
        widths = tuple(sorted(measured))
        seconds: list[float] = []
        for width in widths:
            seconds.append(max(measured[width], seconds[-1] if seconds else 0.0))
        return cls(widths, tuple(seconds))

    def __call__(self, rows: int) -> float:
        """Beyond the widest the last line goes on."""
        widths, seconds = self.widths, self.seconds
        if len(widths) == 1:
            return seconds[0]
        right = min(max(bisect_left(widths, rows), 1), len(widths) - 1)
        low, high = widths[right - 1], widths[right]
        slope = (seconds[right] - seconds[right - 1]) / (high - low)
        return seconds[right - 1] + slope * (rows - low)

    def relative(self, rows: int) -> float:
        """r: how many single tokens such a decode costs."""
        return self(rows) / self(1)


class LiveCosts:
    """Costs corrected by what passes cost later, when sequences are longer than at the measuring.

    Attention makes wide passes dearer with every token in the cells, so what was measured at load
    flatters drafts: for each width measured a factor says by how much, relative to passes without
    drafts. A factor that keeps drafts from being tried slowly returns to 1, or it would never be
    measured again.
    """

    PLAIN_WEIGHT, DRAFT_WEIGHT = 0.05, 0.15
    RETURN, RETURN_EVERY = 0.1, 128
    FARTHEST = 4.0
    """One pass that a neighbour held up says no more than this."""

    def __init__(self, measured: Costs) -> None:
        self.measured = measured
        self._plain = 1.0
        self._factors = dict.fromkeys(measured.widths, 1.0)
        self._now = measured
        self._steps = 0

    def __call__(self, rows: int) -> float:
        return self._now(rows)

    def note(self, rows: int, seconds: float, *, drafted: bool) -> None:
        """What a pass took; `drafted`: some of its rows were to be verified."""
        relative = min(seconds / self.measured(rows) / self._plain, self.FARTHEST)
        if drafted:
            width = min(self._factors, key=lambda each: abs(each - rows))
            self._factors[width] += self.DRAFT_WEIGHT * (relative - self._factors[width])
            self._correct()
            return
        self._plain *= 1 + self.PLAIN_WEIGHT * (relative - 1)
        self._steps += 1
        if self._steps % self.RETURN_EVERY == 0:
            for width, factor in self._factors.items():
                self._factors[width] += self.RETURN * (1.0 - factor)
            self._correct()

    def _correct(self) -> None:
        measured = self.measured
        self._now = Costs.of(
            {
                width: seconds * self._factors[width]
                for width, seconds in zip(measured.widths, measured.seconds, strict=True)
            }
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """So many draft tokens, and the gain over none."""

    tokens: int = 0
    gain: float = 1.0


def best(
    chances: Sequence[float],
    costs: Callable[[int], float],
    *,
    rows: int = 1,
    draft_s: float = 0.0,
    least: int = 1,
) -> Choice:
    """The number of draft tokens that yields the most tokens a second, 0 included.

    `chances[i]` is that draft token i holds if all before it did. `rows` are the batch's without
    the draft. `least`: a narrower batch is padded to it, so these rows cost nothing.
    """
    plain = costs(max(rows, least)) / rows
    choice, expected, reached = Choice(), float(rows), 1.0
    for k, chance in enumerate(chances, 1):
        reached *= chance
        expected += reached
        spent = costs(max(rows + k, least)) + k * draft_s
        gain = plain * expected / spent
        if gain > choice.gain:
            choice = Choice(k, gain)
    return choice


def engages(choice: Choice, *, engaged: bool) -> bool:
    """The decision, with hysteresis."""
    return choice.tokens > 0 and choice.gain >= (OFF_GAIN if engaged else ON_GAIN)


def could_pay(
    costs: Callable[[int], float],
    *,
    rows: int,
    most: int,
    draft_s: float = 0.0,
    least: int = 1,
) -> bool:
    """Whether a draft of which all holds would be worth it. If not, nobody need look for one."""
    if rows > MOST_ROWS:
        return False
    choice = best([1.0] * most, costs, rows=rows, draft_s=draft_s, least=least)
    return engages(choice, engaged=False)


@dataclass(slots=True)
class Odds:
    """How often a guess held: a moving average whose memory is some 1 / (1 - KEEP) trials.

    `prior` and its `weight` in trials stand in for what was not seen yet.
    """

    prior: float = 0.5
    weight: float = 4.0
    keep: float = 0.98
    held: float = 0.0
    tried: float = 0.0

    def see(self, held: int, failed: int) -> None:
        for hit, count in ((1.0, held), (0.0, failed)):
            for _ in range(count):
                self.held = self.held * self.keep + hit
                self.tried = self.tried * self.keep + 1

    @property
    def chance(self) -> float:
        return (self.held + self.prior * self.weight) / (self.tried + self.weight)
