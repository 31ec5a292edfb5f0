"""The list prices that come with Tandem: prices.csv, parsed and checked, found by model.

A wrong price is worse than none, so a model is found by its own name or its dated snapshot's
("gpt-4o-mini-2024-07-18"), never by something like it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.core.routing import Price, as_of_date

TABLE: Final = Path(__file__).with_name("prices.csv")
COLUMNS: Final = "provider model input cached_input output up_to as_of source".split()
DEAREST_USD = 1000.0
"""Per million tokens; above, a digit has slipped."""

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def listed_price(provider: str, model: str) -> Price | None:
    """The list price of a provider's model, marked as such; None if there is none."""
    prices = table()
    return prices.get((provider, model)) or prices.get((provider, _SNAPSHOT.sub("", model)))


@cache
def table() -> Mapping[tuple[str, str], Price]:
    """The whole list by provider (a profile's name) and model."""
    return MappingProxyType(parse(TABLE.read_text("utf-8")))


def parse(text: str) -> dict[tuple[str, str], Price]:
    """A price list. Raises ValueError with the line that is wrong."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = csv.DictReader(lines, strict=True)
    if rows.fieldnames != COLUMNS:
        raise ValueError(f"a price list has the columns {', '.join(COLUMNS)}")
    prices: dict[tuple[str, str], Price] = {}
    for line, row in zip(lines[1:], rows, strict=True):
        try:
            key, price = _row(row)
            if key in prices:
                raise ValueError("listed twice")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{line!r}: {error}") from None
        prices[key] = price
    return prices


def _row(row: Mapping[str, str]) -> tuple[tuple[str, str], Price]:
    if not all(row[name] for name in ("provider", "model", "source")):
        raise ValueError("provider, model and source are needed")
    as_of_date(row["as_of"])
    price = Price(
        input=_usd(row["input"]),
        output=_usd(row["output"]),
        cached_input=_usd(row["cached_input"]) if row["cached_input"] else None,
        up_to=int(row["up_to"]) if row["up_to"] else None,
        as_of=row["as_of"],
        listed=True,
    )
    return (row["provider"], row["model"]), price


def _usd(text: str) -> float:
    amount = float(text)
    if not 0 <= amount <= DEAREST_USD:
        raise ValueError(f"{text} is no price in USD per million tokens")
    return amount
