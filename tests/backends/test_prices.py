from __future__ import annotations

from datetime import date

import pytest

from backends.openai_options import OpenAIOptions
from backends.prices import COLUMNS, listed_price, parse, table
from backends.profiles import PROFILES

HEAD = ",".join(COLUMNS) + "\n"


def test_the_list_is_sound() -> None:
    """Every line is of a provider we know, dated, dearer out than in and cheaper from the cache."""
    assert table()
    for (provider, _), price in table().items():
        assert provider in PROFILES
        assert not PROFILES[provider].reports_cost, "its own word is better than a list"
        assert price.listed
        assert price.age_days(date(2026, 11, 23)) is not None
        assert 0 < price.input <= price.output
        assert price.cached_input is None or price.cached_input < price.input


def test_a_snapshot_has_its_models_price() -> None:
    """A dated snapshot is the model; what only sounds like it is not."""
    assert listed_price("openai", "gpt-4o-mini-2024-07-18") == listed_price("openai", "gpt-4o-mini")
    assert listed_price("openai", "gpt-4o-mini") is not None
    assert listed_price("openai", "gpt-4o-mini-audio-preview") is None
    assert listed_price("groq", "gpt-4o-mini") is None


@pytest.mark.parametrize(
    "line",
    [
        "openai,m,1,,2,,2026-13,page",
        "openai,m,1,,2,,last year,page",
        "openai,m,1,,2,,2026-01,",
        "openai,m,-1,,2,,2026-01,page",
        "openai,m,nan,,2,,2026-01,page",
        "openai,m,1,,2000,,2026-01,page",
        "openai,m,,,2,,2026-01,page",
        "openai,m,1,,2,many,2026-01,page",
        "openai,m,1,,2",
        "openai,m,1,,2,,2026-01,page\nopenai,m,1,,2,,2026-01,page",
    ],
)
def test_a_bad_line_is_named(line: str) -> None:
    """A list with a line that cannot be right is refused, and the line is in the message."""
    with pytest.raises(ValueError, match="openai,m"):
        parse(HEAD + line)


def test_other_columns_are_refused() -> None:
    """A list of another shape is not guessed at."""
    with pytest.raises(ValueError, match="columns"):
        parse("provider,model,input\nopenai,m,1\n")


def test_the_operators_price_comes_first() -> None:
    """A price in the configuration overrides the list's; without one the list's counts."""
    own = {"input": 9, "output": 9}
    options = OpenAIOptions.model_validate({"kind": "groq", "model": "llama-3.1-8b-instant"})
    listed = options.price_or_listed()
    assert listed is not None and listed.listed and listed.input == 0.05
    priced = OpenAIOptions.model_validate({**options.model_dump(), "zone": "public", "price": own})
    price = priced.price_or_listed()
    assert price is not None and not price.listed and price.input == 9
