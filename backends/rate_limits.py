"""An upstream's rate-limit headers, in all their spellings, as one typed value. Pure.

What providers write (looked up in November 2026; † is general knowledge, not looked up again):

- OpenAI and Groq ("Rate Limits"): `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets
  as durations ("2m59.56s"). Groq's requests are a day's, its tokens a minute's, which only the
  profile knows. `retry-after` on a 429 only.
- Cerebras ("Rate Limits"): the same with `-day`, `-hour` or `-minute` behind, resets in seconds.
- Mistral (seen in mistralai/client-ts): `x-ratelimit-remaining-req-minute`, no reset; older:
  † `x-ratelimitbysize-…`, which counts tokens.
- Together ("Rate limits"): `x-ratelimit-{limit,remaining,reset}` and † `x-tokenlimit-…`.
- Fireworks ("Rate limits"): `x-ratelimit-limit-tokens-prompt`, `…-tokens-generated`.
- † OpenRouter: `x-ratelimit-reset` in milliseconds since 1970. † Azure: `retry-after-ms`.
- † Anthropic's wire: `anthropic-ratelimit-input-tokens-reset`, as RFC 3339.
- † IETF drafts: `ratelimit-remaining`, `ratelimit-reset` in seconds.

They are one grammar: a prefix, then words in any order that say what is limited, over which time,
and which of the three numbers this is. So one reader takes them all, and a provider that is not
listed too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import islice
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

Kind: TypeAlias = Literal["requests", "tokens"]

MAX_RETRY_AFTER_S = 600.0
"""A cooldown is at most ten minutes (operations.md 2.4, row 19)."""

WINDOWS: Final[Mapping[str, float]] = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "month": 30 * 86400.0,
}
"""The windows that headers name, in seconds."""

EPOCH_S = 1e9
EPOCH_MS = 1e12
"""From these on a bare number is a time since 1970: the first is 2001, and 31 years as a wait."""

MAX_HEADERS = 64
MAX_VALUE = 64

_PREFIX = re.compile(r"(?:x-|anthropic-)*(ratelimitbysize|ratelimit|tokenlimit)(?:-|$)")
_KINDS: Final[Mapping[str, Kind]] = {
    "requests": "requests",
    "request": "requests",
    "req": "requests",
    "tokens": "tokens",
    "token": "tokens",
}
_NUMBERS: Final = {"limit": "limit", "remaining": "remaining", "reset": "reset_s"}
_PARTS = frozenset("input output prompt generated uncached cache adjusted priority".split())
_AMOUNT = re.compile(r"\d{1,15}(?:\.\d{1,18})?", re.ASCII)
_PIECE = re.compile(r"(\d{1,9}(?:\.\d{1,12})?)(ms|d|h|m|s)", re.ASCII)
_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit: `remaining` of `limit` until it is full again `reset_s` seconds from now.

    `window` is one of WINDOWS, or "" where neither header nor profile names it; `part` tells
    limits of one kind apart that a provider keeps side by side ("input", "generated").
    """

    kind: Kind
    window: str = ""
    part: str = ""
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None

    @property
    def ratio(self) -> float | None:
        """What is left, 0 to 1; None if the upstream does not say enough."""
        if self.remaining is None or not self.limit:
            return None
        return min(self.remaining / self.limit, 1.0)

    @property
    def spent(self) -> bool:
        return self.remaining is not None and self.remaining <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What one answer's headers say of its upstream's limits.

    `retry_after_s` is the upstream's own plain word, uncapped; `should_retry` its
    `x-should-retry`; `seen` is when, on the caller's wall clock.
    """

    limits: tuple[Limit, ...] = ()
    retry_after_s: float | None = None
    should_retry: bool | None = None
    seen: float = 0.0

    @property
    def wait_s(self) -> float | None:
        """Seconds until it is worth asking again, at most ten minutes; None if nobody says.

        Without a plain word, the latest reset among the limits that are used up.
        """
        wait = self.retry_after_s
        if wait is None:
            resets = [each.reset_s for each in self.limits if each.spent]
            wait = max((reset for reset in resets if reset is not None), default=None)
        return None if wait is None else min(max(wait, 0.0), MAX_RETRY_AFTER_S)

    def remaining_ratio(self, kind: Kind, now: float) -> float | None:
        """The scarcest limit's ratio; None if none says. One whose reset has passed is old news."""
        age = now - self.seen
        ratios = [
            each.ratio
            for each in self.limits
            if each.kind == kind and (each.reset_s is None or each.reset_s > age)
        ]
        return min((ratio for ratio in ratios if ratio is not None), default=None)


@runtime_checkable
class Limited(Protocol):
    """A backend whose upstream says how much of its limits is left."""

    @property
    def rate_limits(self) -> RateLimits: ...


def read(
    headers: Iterable[tuple[str, str]], *, now: float, windows: Mapping[Kind, str] | None = None
) -> RateLimits:
    """All that `headers` say of limits; `now` is wall-clock seconds. Never raises.

    `windows` are the profile's, for headers that name none. Of a repeated header the last counts.
    """
    windows = windows or {}
    found: dict[tuple[Kind, str, str], dict[str, float | None]] = {}
    plain: dict[str, str] = {}
    for name, value in islice(headers, MAX_HEADERS):
        name = name.lower()
        if name in _PLAIN:
            plain[name] = value.strip()[:MAX_VALUE]
        elif (slot := _slot(name)) is not None:
            number, kind, window, part = slot
            numbers = found.setdefault((kind, window or windows.get(kind, ""), part), {})
            value = value.strip()[:MAX_VALUE]
            numbers[number] = reset(value, now) if number == "reset_s" else _amount(value)
    retry = plain.get("x-should-retry", "")
    return RateLimits(
        limits=tuple(
            Limit(kind=kind, window=window, part=part, **numbers)
            for (kind, window, part), numbers in found.items()
        ),
        retry_after_s=_retry_after(plain, now),
        should_retry={"true": True, "false": False}.get(retry.lower()),
        seen=now,
    )


def duration(text: str) -> float | None:
    """Seconds in "7.66s", "2m59.56s", "1h", "120ms", "1d2h" or a bare number, else None."""
    text = text.strip()[:MAX_VALUE]
    if (plain := _amount(text)) is not None:
        return plain
    pieces = _PIECE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)


def reset(text: str, now: float) -> float | None:
    """Seconds from `now` to a reset: a duration, a time since 1970, RFC 3339 or an HTTP date.

    Never negative; None if it is none of these.
    """
    seconds = duration(text)
    if seconds is None:
        moment = _moment(text)
        return None if moment is None else max(moment - now, 0.0)
    if _amount(text) is None or seconds < EPOCH_S:
        return seconds
    return max((seconds / 1000 if seconds >= EPOCH_MS else seconds) - now, 0.0)


@lru_cache(maxsize=256)  # the same few names with each answer
def _slot(name: str) -> tuple[str, Kind, str, str] | None:
    """(which number, of what, over which window, of which part), or None for another header."""
    match = _PREFIX.match(name)
    if match is None:
        return None
    field = window = ""
    kind: Kind = "requests" if match[1] == "ratelimit" else "tokens"
    parts: list[str] = []
    for word in filter(None, name[match.end() :].split("-")):
        if word in _NUMBERS:
            field = _NUMBERS[word]
        elif word in _KINDS:
            kind = _KINDS[word]
        elif word in WINDOWS:
            window = word
        elif word in _PARTS:
            parts.append(word)
        else:
            return None  # x-ratelimit-over-limit, x-ratelimit-tokens-query-cost: no such number
    if not field:
        return None
    return field, kind, window, "-".join(parts)


_PLAIN = frozenset({"retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-should-retry"})


def _retry_after(plain: Mapping[str, str], now: float) -> float | None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _amount(plain.get(name, ""))
        if milliseconds is not None:
            return milliseconds / 1000
    value = plain.get("retry-after", "")
    return reset(value, now) if value else None


def _amount(text: str) -> float | None:
    text = text.strip()
    return float(text) if _AMOUNT.fullmatch(text) else None


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a written date."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # a day, an hour or an offset beyond a C int
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        return None
