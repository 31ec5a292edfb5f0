from __future__ import annotations

from datetime import date

import pytest

from gateway.config import Config, ConfigError
from gateway.core.routing import Price, as_of_date
from gateway.price_notes import price_notes

TODAY = date(2026, 11, 23)


def notes(**upstream: object) -> list[str]:
    config = Config.build(upstreams={"up": {"kind": "openai", "model": "m", **upstream}})
    return price_notes(config.upstreams, TODAY)


def test_an_unknown_price_is_said() -> None:
    """A cloud upstream without a price is named, with the counter that shows it."""
    [note] = notes(base_url="http://box.test/v1")
    assert note.startswith("up: no price is known")
    assert "tandem_cost_unknown_total" in note


@pytest.mark.parametrize(
    ("as_of", "stale"),
    [("2026-11", False), ("2026-08", False), ("2026-07", True), ("2026-08-25", False),
     ("2026-08-24", True), ("2020-01", True), ("", False)],
)  # fmt: skip
def test_an_old_price_is_said(as_of: str, stale: bool) -> None:
    """A price of more than 90 days ago is warned about; a month counts from its last day."""
    price = {"input": 1, "output": 2, "as_of": as_of}
    found = notes(base_url="http://box.test/v1", price=price)
    assert bool(found) is stale
    assert all(as_of in note for note in found)


def test_list_prices_age_too() -> None:
    """The prices that come with Tandem are as stale as their own date says."""
    config = Config.build(upstreams={"g": {"kind": "groq", "model": "llama-3.1-8b-instant"}})
    assert price_notes(config.upstreams, date(2026, 7, 1)) == []
    [note] = price_notes(config.upstreams, date(2027, 11, 23))
    assert "the list price is of 2026-06" in note


@pytest.mark.parametrize(
    "quiet",
    [
        {"kind": "openrouter"},
        {"kind": "perplexity"},
        {"base_url": "http://box.test/v1", "price": {"flat": True}},
        {"base_url": "http://box.test/v1", "price": {"electricity": 0.3}},
        {"base_url": "http://box.test/v1", "zone": "machine"},
    ],
)
def test_nothing_to_say(quiet: dict[str, object]) -> None:
    """Who says its costs itself, is paid anyway or runs here needs no price per token."""
    assert notes(**quiet) == []


@pytest.mark.parametrize(
    "price",
    [
        {},
        {"input": 1},
        {"cached_input": 1},
        {"input": 1, "output": 1, "flat": True},
        {"flat": True, "electricity": 0.3},
        {"flat": False},
        {"electricity": -1},
        {"input": float("nan"), "output": 1},
        {"input": 1, "output": 1, "as_of": "August"},
        {"input": 1, "output": 1, "as_of": "2026-02-30"},
    ],
)
def test_a_price_has_one_form(price: dict[str, object]) -> None:
    """Per token, flat or electricity: exactly one, whole, and with a date that is one."""
    with pytest.raises(ConfigError, match="price"):
        notes(base_url="http://box.test/v1", price=price)


def test_the_age_of_a_price() -> None:
    """Days since the day it was looked up; a month is as young as its last day."""
    assert Price(as_of="2026-11-13").age_days(TODAY) == 10
    assert as_of_date("2024-02") == date(2024, 2, 29)
    assert Price().age_days(TODAY) is None


def test_the_cheap_alias_knows_list_prices() -> None:
    """`auto:cheap` orders by what is known, the list's prices too; unknown is dearest."""
    config = Config.build(
        upstreams={
            "unknown": {"kind": "groq", "model": "nobody/knows"},
            "dear": {"kind": "groq", "model": "llama-3.3-70b-versatile"},
            "cheap": {"kind": "groq", "model": "llama-3.1-8b-instant"},
        }
    )
    assert config.aliases["auto:cheap"].candidates == ("cheap", "dear", "unknown")
