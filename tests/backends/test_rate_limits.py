from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.rate_limits import (
    MAX_RETRY_AFTER_S,
    WINDOWS,
    Kind,
    Limit,
    RateLimits,
    duration,
    read,
    reset,
)

NOW = 1_800_000_000.0


def limits(headers: dict[str, str], **windows: str) -> dict[tuple[str, str, str], Limit]:
    said = read(headers.items(), now=NOW, windows=windows)  # type: ignore[arg-type]
    return {(each.kind, each.window, each.part): each for each in said.limits}


def wait(headers: dict[str, str]) -> float | None:
    return read(headers.items(), now=NOW).wait_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 15 Jan 2021 08:00:30 GMT"}, 0.0),
        ({"retry-after": "2m59.56s"}, pytest.approx(179.56)),
        ({"retry-after": "86400"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 99999999999 Jan 2020 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 20 Jan 2020 99999999999:00:00 GMT"}, None),
        ({"retry-after": "Mon, 20 Jan 2020 00:00:00 +99999999999999"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "12",
                "x-ratelimit-reset-requests": "5h",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            7.66,
        ),
        (
            {
                "x-ratelimit-remaining-requests-day": "0",
                "x-ratelimit-reset-requests-day": "33011.382867097855",
                "x-ratelimit-remaining-tokens-minute": "0",
                "x-ratelimit-reset-tokens-minute": "11.38",
            },
            MAX_RETRY_AFTER_S,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000042000"}, 42.0),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:20Z",
            },
            20.0,
        ),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "9"}, 9.0),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    """When to ask again is read in every spelling, bounded, and never guessed."""
    assert wait(headers) == seconds


def test_groq() -> None:
    """Groq's requests are a day's and its tokens a minute's, which only the profile says."""
    said = limits(
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        requests="day",
        tokens="minute",
    )
    requests, tokens = said["requests", "day", ""], said["tokens", "minute", ""]
    assert (requests.limit, requests.remaining, requests.reset_s) == (14400, 14370, 179.56)
    assert (tokens.limit, tokens.remaining, tokens.reset_s) == (18000, 17997, 7.66)


def test_mistral() -> None:
    """Mistral's words come in another order, and what is no limit is none."""
    said = limits(
        {
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
            "x-ratelimit-tokens-query-cost": "52",
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
            "x-ratelimitbysize-remaining-month": "7",
        }
    )
    assert said["requests", "minute", ""].ratio == 717 / 720
    assert said["tokens", "minute", ""].remaining == 4999911
    assert said["tokens", "month", ""].remaining == 7
    assert len(said) == 3


def test_fireworks_and_together() -> None:
    """Limits of one kind side by side are kept apart; Together's tokens have a prefix of theirs."""
    said = limits(
        {
            "x-ratelimit-limit-tokens-prompt": "60000",
            "x-ratelimit-remaining-tokens-prompt": "30000",
            "x-ratelimit-limit-tokens-generated": "6000",
            "x-ratelimit-over-limit": "no",
            "x-tokenlimit-remaining": "5",
            "x-ratelimit-remaining": "4",
        }
    )
    assert said["tokens", "", "prompt"].ratio == 0.5
    assert said["tokens", "", "generated"].ratio is None
    assert said["tokens", "", ""].remaining == 5
    assert said["requests", "", ""].remaining == 4


def test_should_retry() -> None:
    """`x-should-retry` is read as it is meant, and nothing else as anything."""
    assert read([("x-should-retry", "false")], now=NOW).should_retry is False
    assert read([("x-should-retry", "true")], now=NOW).should_retry is True
    assert read([("x-should-retry", "perhaps")], now=NOW).should_retry is None


def test_what_is_left() -> None:
    """The scarcest limit of a kind counts, until its reset has passed."""
    said = RateLimits(
        limits=(
            Limit(kind="tokens", window="minute", limit=100, remaining=10, reset_s=30),
            Limit(kind="tokens", window="day", limit=100, remaining=60),
            Limit(kind="requests", limit=0, remaining=0),
        ),
        seen=NOW,
    )
    assert said.remaining_ratio("tokens", NOW) == 0.1
    assert said.remaining_ratio("tokens", NOW + 31) == 0.6
    assert said.remaining_ratio("requests", NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m59.56s", 179.56), ("120ms", 0.12), ("1h", 3600), ("1d2h", 93600), ("3", 3), ("", None),
     ("1w", None), ("s5", None), ("5s!", None), ("٣", None)],
)  # fmt: skip
def test_duration(text: str, seconds: float | None) -> None:
    """Go-style durations, as Groq and OpenAI write them, are read whole or not at all."""
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@given(
    hours=st.integers(0, 99),
    minutes=st.integers(0, 59),
    milliseconds=st.integers(0, 59_999),
)
def test_durations_come_back(hours: int, minutes: int, milliseconds: int) -> None:
    """Whatever Go prints as a duration is the number of seconds that it was."""
    text = f"{hours}h" * bool(hours) + f"{minutes}m" * bool(hours or minutes)
    text += f"{milliseconds / 1000:g}s"
    assert duration(text) == pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)


@given(ahead=st.integers(0, 10**7))
def test_resets_come_back(ahead: int) -> None:
    """The same moment in seconds, epoch seconds, epoch milliseconds, RFC 3339: one reset."""
    then = int(NOW) + ahead
    iso = datetime.fromtimestamp(then, UTC).isoformat()
    spellings = (str(ahead), str(then), str(then * 1000), iso, iso.replace("+00:00", "Z"))
    assert {reset(text, NOW) for text in spellings} == {float(ahead)}


@given(
    prefix=st.sampled_from(["x-ratelimit", "ratelimit", "anthropic-ratelimit", "X-RateLimit"]),
    words=st.permutations(["remaining", "tokens", "minute"]),
    remaining=st.integers(0, 10**9),
)
def test_the_order_of_words_says_nothing(prefix: str, words: list[str], remaining: int) -> None:
    """A header is known by its words, however a provider strings them together."""
    [limit] = read([("-".join([prefix, *words]), str(remaining))], now=NOW).limits
    assert limit == Limit(kind="tokens", window="minute", remaining=remaining)


_WORD = st.sampled_from(
    ["x", "ratelimit", "limit", "remaining", "reset", "tokens", "req", *WINDOWS, "cost", ""]
)
_NAME = st.one_of(
    st.lists(_WORD, max_size=6).map("-".join),
    st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"]),
)
_VALUE = st.text(string.digits + ".-:TZhmsd+ ", max_size=40) | st.text(max_size=20)


@given(st.lists(st.tuples(_NAME, _VALUE), max_size=12))
def test_nothing_an_upstream_sends_breaks_the_reader(headers: list[tuple[str, str]]) -> None:
    """Any headers are read to numbers that are finite and not negative; a wait is bounded."""
    said = read(headers, now=NOW)
    for limit in said.limits:
        for number in (limit.limit, limit.remaining, limit.reset_s):
            assert number is None or 0 <= number < float("inf")
        assert limit.ratio is None or 0 <= limit.ratio <= 1
    assert said.wait_s is None or 0 <= said.wait_s <= MAX_RETRY_AFTER_S
    kinds: tuple[Kind, ...] = ("requests", "tokens")
    for kind in kinds:
        ratio = said.remaining_ratio(kind, NOW)
        assert ratio is None or 0 <= ratio <= 1
