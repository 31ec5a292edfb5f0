"""Does drafting pay? Closed forms of what it should cost, and a decision from what it did cost.

Pure: measurements in, decision out; no clock, no I/O. Times are seconds, rates seconds per token.

The never-idle session cannot lose where the target runs elsewhere, for drafts only ever replace
passes it would have made. Where draft and target share the cores it can: drafting takes from the
target what verifying gives back, often more. No formula knows that split, so the realised rates
with and without drafting decide, and the formulas stand in until both have been seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

PROBE_TOKENS = 24
"""Drafted in an answer that is only to find out; also the window of `abandons`."""
ON_GAIN = 1.10
"""Drafting starts to be used above this (DESIGN 6) and is given up below OFF_GAIN: between them
the last decision holds, so that noise does not flip it."""
OFF_GAIN = 1.0
REFRESH = 32
"""While drafting, every so many answers the rate without it is measured again."""
FIRST_PAUSE = 16
LONGEST_PAUSE = 512
"""Answers between two probes while drafting is off; doubles with each probe that fails."""
WEIGHT = 0.3
ENOUGH_TOKENS = 16
ENOUGH_S = 0.02
KNOWN_TOKENS = 2 * PROBE_TOKENS
"""Remembered tokens, with and without drafts, before anything is decided: about three probes."""
LOST_WINDOWS = 3


def expected_tokens(alpha: float, drafted: int) -> float:
    """A(k): tokens that one pass over `drafted` draft tokens yields, the target's own included."""
    if alpha >= 1:
        return drafted + 1.0
    return float((1 - alpha ** (drafted + 1)) / (1 - alpha))


def sync_rate(alpha: float, drafted: int, draft_s: float, rtt_s: float, verify_s: float) -> float:
    """Draft, send, wait: one round at a time."""
    return (drafted * draft_s + rtt_s + verify_s) / expected_tokens(alpha, drafted)


def pipelined_rate(alpha: float, draft_s: float, rtt_s: float, verify_s: float) -> float:
    """Drafting goes on while a round is out; the verifier waits for drafts."""
    return draft_s + (1 - alpha) * (rtt_s + verify_s)


def never_idle_rate(alpha: float, target_s: float, draft_s: float, rtt_s: float) -> float:
    """The verifier goes on by itself while drafts are on their way. Never above `target_s`.

    After a miss the target runs alone until the drafter has caught up, which takes
    (rtt + target_s) / (target_s - draft_s) tokens that all must hold to matter.
    """
    lead = target_s - draft_s
    if lead <= 0:
        return target_s
    return float(target_s - lead * alpha ** ((rtt_s + target_s) / lead))


def best_width(alpha: float, verify_s: Mapping[int, float]) -> int:
    """The width whose pass yields the most tokens a second; width 1 drafts nothing."""
    return max(verify_s, key=lambda width: expected_tokens(alpha, width - 1) / verify_s[width])


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
    """What one answer showed, in its drafted and in its undrafted part."""

    drafting: Span = Span()
    plain: Span = Span()
    draft_s: float | None = None
    rtt_s: float | None = None
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What is known of a pair on this machine: moving averages over its answers, and the decision.

    `drafting` and `plain` hold the realised rates with and without drafting, `draft_s` is the
    drafter's own; `verify_s` is a pass by its width, where a companion tells.
    """

    alpha: float | None = None
    drafting: Span = Span()
    plain: Span = Span()
    draft_s: float | None = None
    rtt_s: float = 0.0
    verify_s: Mapping[int, float] = field(default_factory=dict)
    on: bool = False
    since_probe: int = 0
    pause: int = FIRST_PAUSE

    @property
    def drafting_s(self) -> float | None:
        return self.drafting.rate

    @property
    def plain_s(self) -> float | None:
        return self.plain.rate

    @property
    def gain(self) -> float | None:
        """Plain time over drafting time, realised; None until enough of both was seen.

        Never more than the tokens of a pass: a pass that verifies costs at least one that does
        not, so what the clock shows beyond that is a neighbour's doing. That bound is a count, and
        no load on the machine can blur it.
        """
        if min(self.plain.tokens, self.drafting.tokens) < KNOWN_TOKENS:
            return None
        realised = self.plain.seconds / self.plain.tokens
        realised /= max(self.drafting.seconds / self.drafting.tokens, 1e-9)
        return min(realised, self.drafting.tokens / max(self.drafting.passes, 1))

    @property
    def predicted_gain(self) -> float | None:
        """The same by formula, for cores that are not shared; never below 1."""
        if self.alpha is None or self.plain_s is None or self.draft_s is None:
            return None
        rate = never_idle_rate(self.alpha, self.plain_s, self.draft_s, self.rtt_s)
        return self.plain_s / max(rate, 1e-9)

    def draft_tokens(self) -> int | None:
        """For how many tokens the next answer is drafted: None for all of it, 0 for none."""
        if self.drafting.tokens < KNOWN_TOKENS:
            return PROBE_TOKENS
        if self.plain.tokens < KNOWN_TOKENS:
            return 0
        if self.on:
            return PROBE_TOKENS if self.since_probe >= REFRESH else None
        return PROBE_TOKENS if self.since_probe >= self.pause else 0

    def ahead(self, limit: int) -> int:
        """How many tokens to draft beyond what is settled: the best width less one."""
        if self.alpha is None or not self.verify_s:
            return limit
        return min(limit, best_width(self.alpha, self.verify_s) - 1)

    def after(self, seen: Observation) -> Estimates:
        """What is known once an answer has ended."""
        alpha = self.alpha
        if seen.drafted:
            alpha = _blend(alpha, seen.accepted / seen.drafted)
        known = replace(
            self,
            alpha=alpha,
            drafting=self.drafting.after(seen.drafting),
            plain=self.plain.after(seen.plain),
            draft_s=_blend(self.draft_s, seen.draft_s),
            rtt_s=_blend(self.rtt_s or None, seen.rtt_s) or 0.0,
        )
        return known._decided(probed=seen.drafting.tells and self.draft_tokens() != 0)

    def _decided(self, *, probed: bool) -> Estimates:
        gain = self.gain
        if gain is None:
            return replace(self, since_probe=0)
        on = gain >= (OFF_GAIN if self.on else ON_GAIN)
        if on:
            refreshed = self.on and self.since_probe >= REFRESH
            since = 0 if refreshed or not self.on else self.since_probe + 1
            return replace(self, on=True, since_probe=since, pause=FIRST_PAUSE)
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
