"""Does drafting pay? A decision from what it did cost, and from what it should (formulas.py).

Pure: measurements in, decision out; no clock, no I/O. Times are seconds, rates seconds per token.

The never-idle session cannot lose where the target runs elsewhere, for drafts only ever replace
passes it would have made. Where draft and target share the cores it can: drafting takes from the
target what verifying gives back, often more. No formula knows that split, so the realised rates
with and without drafting decide. The formula decides until both have been seen, and afterwards says
when to look again: the link has become faster, and drafting might pay now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backends.speculative.formulas import best_width, lead, never_idle_gain

PROBE_TOKENS = 24
"""Drafted in an answer that is only to find out; also the window of `abandons`."""
ON_GAIN = 1.10
"""Drafting starts to be used above this (DESIGN 6) and is given up below OFF_GAIN: between them
the last decision holds, so that noise does not flip it."""
OFF_GAIN = 1.0
REFRESH = 32
"""While drafting, every so many answers the rate without it is measured again."""
FIRST_REFRESH = 2
"""The same at first, where passes are short and the rates of two answers differ by half: doubles
with each that agrees."""
FIRST_PAUSE = 16
LONGEST_PAUSE = 512
"""Answers between two probes while drafting is off; doubles with each probe that fails."""
WEIGHT = 0.3
ENOUGH_TOKENS = 16
ENOUGH_S = 0.02
KNOWN_TOKENS = 2 * PROBE_TOKENS
"""Remembered tokens, with and without drafts, before anything is decided: about three probes."""
LOST_WINDOWS = 3
RTTS = 32
"""Round trips that are remembered."""
TRIALS = 16
"""Drafts that one answer must have tried for its acceptance to count in full."""
SOONEST = 4
"""Answers between two probes where the formula wants one."""
BELIEVED = (0.25, 2.0)
"""Realised over predicted is taken for no less and no more."""
SHORT_PASS_S = 0.008
"""A session costs some 0.15 ms of processor time a token more than frames that pass as they come:
nothing beside a longer pass than this, a tenth and more of one of 1 ms."""
LEAST_CHANCE = 0.05
"""Below this nobody drafts, even where verifying is free: it would only make heat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Tokens, the seconds that they took to arrive, and the target's passes they came of."""

    tokens: float = 0
    seconds: float = 0.0
    passes: float = 0

    @property
    def tells(self) -> bool:
        """Whether it says anything of a rate: a few tokens, or many that arrived in one burst
        because this process was busy, do not."""
        return self.tokens >= ENOUGH_TOKENS and self.seconds >= ENOUGH_S

    @property
    def rate(self) -> float | None:
        """Seconds a token."""
        return self.seconds / self.tokens if self.tokens else None

    def after(self, seen: Span) -> Span:
        """With what was seen last; what lies longer back counts less, and long answers more."""
        if not seen.tells:
            return self
        return Span(
            tokens=self.tokens * (1 - WEIGHT) + seen.tokens,
            seconds=self.seconds * (1 - WEIGHT) + seen.seconds,
            passes=self.passes * (1 - WEIGHT) + seen.passes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one answer showed, in its drafted and in its undrafted part.

    `missed` are the drafts that were compared and did not hold; what was verified behind them was
    never tried. None if nobody counted them: then all that did not hold. `verify_s` is a pass by
    its width. `alone` is an answer that the target streamed without a session.
    """

    drafting: Span = Span()
    plain: Span = Span()
    draft_s: float | None = None
    rtt_s: float | None = None
    drafted: int = 0
    accepted: int = 0
    missed: int | None = None
    verify_s: Mapping[int, float] = field(default_factory=dict)
    alone: Span = Span()

    @property
    def tried(self) -> int:
        return self.drafted if self.missed is None else self.accepted + self.missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What is known of a pair on this machine: moving averages over its answers, and the decision.

    `drafting` and `plain` hold the realised rates with and without drafting, `draft_s` is the
    drafter's own; `verify_s` is a pass by its width. `rtt_s` is a moving average of the last round
    trips, `rtts`. `correction` is what was realised over what was predicted. `alone` is the rate of
    a target of short passes without a session; where it is known, that is what drafting must beat.
    """

    alpha: float | None = None
    drafting: Span = Span()
    plain: Span = Span()
    alone: Span = Span()
    draft_s: float | None = None
    rtt_s: float = 0.0
    rtts: tuple[float, ...] = ()
    verify_s: Mapping[int, float] = field(default_factory=dict)
    correction: float = 1.0
    on: bool = False
    since_probe: int = 0
    pause: int = FIRST_PAUSE
    refresh: int = FIRST_REFRESH

    def told(self, passes: Mapping[int, float]) -> Estimates:
        """With what the target says of its passes, by width, where nothing was measured here."""
        return replace(self, verify_s={**passes, **self.verify_s}) if passes else self

    @property
    def drafting_s(self) -> float | None:
        return self.drafting.rate

    @property
    def plain_s(self) -> float | None:
        return self.undrafted.rate

    @property
    def undrafted(self) -> Span:
        """What is known of answers without drafts."""
        return self.alone if self.alone.tells else self.plain

    @property
    def gain(self) -> float | None:
        """Plain time over drafting time, realised; None until enough of both was seen.

        Never more than the tokens of a pass: a pass that verifies costs at least one that does
        not, so what the clock shows beyond that is a neighbour's doing. That bound is a count, and
        no load on the machine can blur it.
        """
        plain = self.undrafted
        if min(plain.tokens, self.drafting.tokens) < KNOWN_TOKENS:
            return None
        realised = plain.seconds / plain.tokens
        realised /= max(self.drafting.seconds / self.drafting.tokens, 1e-9)
        return min(realised, self.drafting.tokens / max(self.drafting.passes, 1))

    def rtt(self, share: float) -> float:
        """The round trip that so large a share of the last ones did not exceed."""
        if not self.rtts:
            return self.rtt_s
        return sorted(self.rtts)[min(int(share * len(self.rtts)), len(self.rtts) - 1)]

    @property
    def target_s(self) -> float | None:
        """A pass of the target alone; until one was seen, any of its passes."""
        alone = self.plain_s or self.verify_s.get(1)
        if alone is None and self.drafting.passes:
            return self.drafting.seconds / self.drafting.passes
        return alone

    @property
    def predicted_gain(self) -> float | None:
        """The same by formula, for cores that are not shared, at a round trip that nine of ten do
        not exceed."""
        target_s = self.target_s
        if self.alpha is None or target_s is None or self.draft_s is None:
            return None
        alone = self.verify_s.get(1)
        relative = {1: 1.0}
        if alone:
            relative |= {width: seconds / alone for width, seconds in self.verify_s.items()}
        passes = {width: share * target_s for width, share in relative.items()}
        return never_idle_gain(self.alpha, self.draft_s, self.rtt(0.9), passes)

    @property
    def expected_gain(self) -> float | None:
        """What the formula says, corrected by how it did before."""
        predicted = self.predicted_gain
        return None if predicted is None else predicted * self.correction

    def draft_tokens(self) -> int | None:
        """For how many tokens the next answer is drafted: None for all of it, 0 for none."""
        expected = self.expected_gain
        if self.gain is None:
            if expected is not None and expected < ON_GAIN:
                return PROBE_TOKENS if self.since_probe >= self.pause else 0
            if self.drafting.tokens >= KNOWN_TOKENS:
                return 0
            # Without a rate to compare with, nothing would stop a whole answer that loses.
            told = expected is not None and self.undrafted.tokens >= KNOWN_TOKENS
            return None if told else PROBE_TOKENS
        if self.on:
            return PROBE_TOKENS if self.since_probe >= REFRESH else None
        wanted = expected is not None and expected >= ON_GAIN and self.since_probe >= SOONEST
        return PROBE_TOKENS if wanted or self.since_probe >= self.pause else 0

    @property
    def needs_session(self) -> bool:
        """Whether the next answer is a session's: to draft or to find out, and for targets of
        longer passes always, since it costs nothing beside them and watches the link."""
        if not self._short:
            return True
        if self.drafting.tokens >= KNOWN_TOKENS > self.alone.tokens:
            return False  # what has it to beat?
        if self.on and self.since_probe >= self.refresh:
            return False  # and has that changed?
        return self.draft_tokens() != 0

    @property
    def _short(self) -> bool:
        return self.target_s is not None and self.target_s < SHORT_PASS_S

    def ahead(self, limit: int, *, unmeasured: int | None = None) -> int:
        """How many tokens to draft beyond what is settled; 0 where no width pays."""
        if self.width(limit + 1) < 2:
            return 0
        if self.target_s is None or not self.draft_s:
            return limit if unmeasured is None else unmeasured
        return min(limit, lead(self.target_s, self.draft_s, self.rtt(0.9)))

    def width(self, limit: int) -> int:
        """How wide a pass may be: as yields the most tokens a second, the last token included."""
        if self.alpha is None or len(self.verify_s) < 2 or 1 not in self.verify_s:
            return limit
        best = best_width(self.alpha, self.verify_s)
        # Wider than was ever measured may be better still.
        return limit if best == max(self.verify_s) else min(best, limit)

    def break_even(self, *, cost_s: float = 0.0) -> float:
        """The chance of holding below which one more draft is not worth it.

        One that holds saves a pass of the target; one that is verified makes its pass so much
        longer, and `cost_s` is what else it costs, in seconds of waiting.
        """
        target_s = self.verify_s.get(1) or self.plain_s
        if not target_s:
            return LEAST_CHANCE
        wider = [
            (seconds - target_s) / (width - 1)
            for width, seconds in self.verify_s.items()
            if width > 1
        ]
        slope = max(0.0, min(wider, default=0.0))
        return min(max((slope + cost_s) / target_s, LEAST_CHANCE), 1.0)

    def after(self, seen: Observation) -> Estimates:
        """What is known once an answer has ended."""
        alpha = self.alpha
        if seen.tried:
            share = seen.accepted / seen.tried
            weight = 1.0 if alpha is None else WEIGHT * min(1.0, seen.tried / TRIALS)
            alpha = share if alpha is None else alpha + weight * (share - alpha)
        verify_s = dict(self.verify_s)
        for width, seconds in seen.verify_s.items():
            verify_s[width] = _blend(verify_s.get(width), seconds) or seconds
        known = replace(
            self,
            alpha=alpha,
            drafting=self.drafting.after(seen.drafting),
            plain=self.plain.after(seen.plain),
            alone=self.alone.after(seen.alone),
            draft_s=_blend(self.draft_s, seen.draft_s),
            rtt_s=_blend(self.rtt_s or None, seen.rtt_s) or 0.0,
            rtts=self.rtts if seen.rtt_s is None else (*self.rtts, seen.rtt_s)[-RTTS:],
            verify_s=verify_s,
        )
        drafted = seen.drafting.tells
        if drafted:
            known = known._corrected()
        return known._decided(probed=drafted and self.draft_tokens() != 0)

    def _corrected(self) -> Estimates:
        realised, predicted = self.gain, self.predicted_gain
        if realised is None or predicted is None:
            return self
        low, high = BELIEVED
        share = min(max(realised / predicted, low), high)
        return replace(self, correction=self.correction + WEIGHT * (share - self.correction))

    def _decided(self, *, probed: bool) -> Estimates:
        gain = self.gain
        if gain is None:
            return replace(self, since_probe=0 if probed else self.since_probe + 1)
        on = gain >= (OFF_GAIN if self.on else ON_GAIN)
        if on:
            interval = self.refresh if self._short else REFRESH
            if self.on and self.since_probe < interval:
                return replace(self, since_probe=self.since_probe + 1, pause=FIRST_PAUSE)
            longer = min(2 * self.refresh, REFRESH) if self.on else FIRST_REFRESH
            return replace(self, on=True, since_probe=0, pause=FIRST_PAUSE, refresh=longer)
        if self.on or not probed:
            return replace(self, on=False, since_probe=0 if self.on else self.since_probe + 1)
        longer = min(self.pause * 2, LONGEST_PAUSE) if self.since_probe else self.pause
        return replace(self, since_probe=0, pause=longer)


def abandons(windows: Sequence[float], plain_s: float | None) -> bool:
    """Whether an answer in flight gives drafting up: its last windows were all slower than plain.

    Three of them (speculation.md 8.1), since one may be a busy neighbour.
    """
    if plain_s is None or len(windows) < LOST_WINDOWS:
        return False
    return all(rate > plain_s / OFF_GAIN for rate in windows[-LOST_WINDOWS:])


def _blend(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return new if old is None else old
    return old + WEIGHT * (new - old)
