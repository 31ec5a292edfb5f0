from __future__ import annotations

import pytest

from gateway.core.chat import Usage
from gateway.core.exchange import RecordDraft
from gateway.core.routing import Price, Tier, Upstream, Zone
from gateway.settle import note_cost

USAGE = Usage(prompt_tokens=1_000_000, completion_tokens=100_000, cached_tokens=400_000)
SAID = Usage(prompt_tokens=1_000_000, completion_tokens=100_000, cost_usd=0.25)


def upstream(price: Price | None, tier: Tier = Tier.CLOUD) -> Upstream:
    return Upstream(name="u", kind="k", tier=tier, zone=Zone.PUBLIC, model="m", price=price)


def draft(usage: Usage, joules: float | None = None, *, guessed: bool = False) -> RecordDraft:
    made = RecordDraft(
        id="1", endpoint="chat", model="m", stream=True, tenant="t", key_id="", zone="public"
    )
    made.usage, made.energy_j, made.energy_estimated = usage, joules, guessed
    return made


OWN = Price(input=1, output=10, cached_input=0.5)
LISTED = Price(input=2, output=20, listed=True)


@pytest.mark.parametrize(
    ("price", "tier", "usage", "usd"),
    [
        (OWN, Tier.CLOUD, USAGE, 0.6 + 0.2 + 1.0),
        (Price(input=1, output=10), Tier.CLOUD, USAGE, 2.0),
        (OWN, Tier.CLOUD, SAID, 2.0),
        (LISTED, Tier.CLOUD, USAGE, 4.0),
        (LISTED, Tier.CLOUD, SAID, 0.25),
        (None, Tier.CLOUD, SAID, 0.25),
        (None, Tier.CLOUD, USAGE, None),
        (None, Tier.LOCAL, USAGE, 0.0),
        (Price(), Tier.CLOUD, USAGE, 0.0),
        (Price(input=1, output=1, up_to=999_999), Tier.CLOUD, USAGE, None),
        (Price(input=1, output=1, up_to=1_000_000), Tier.CLOUD, USAGE, 1.1),
    ],
)
def test_whose_word_on_cost_counts(
    price: Price | None, tier: Tier, usage: Usage, usd: float | None
) -> None:
    """The operator's price, else the upstream's own word, else the list's; never silently zero."""
    assert upstream(price, tier).cost_of(usage) == (None if usd is None else pytest.approx(usd))


def test_electricity() -> None:
    """A machine of one's own costs its kilowatt-hours, and nothing is known without joules."""
    local = upstream(Price(kwh=0.30), Tier.LOCAL)
    assert local.cost_of(USAGE, 3.6e6) == pytest.approx(0.30)
    assert local.cost_of(USAGE) is None


def test_guesses_are_marked() -> None:
    """A cost that rests on guessed tokens or guessed joules is marked; a known one is not."""
    guess = Usage(prompt_tokens=9, completion_tokens=9, estimated=True)
    cases = [
        (upstream(OWN), draft(guess), True),
        (upstream(OWN), draft(USAGE, 5.0, guessed=True), False),
        (upstream(Price(kwh=0.3)), draft(USAGE, 5.0, guessed=True), True),
        (upstream(Price(kwh=0.3)), draft(guess, 5.0), False),
        (upstream(None), draft(guess), False),
    ]
    for where, made, marked in cases:
        note_cost(made, where)
        assert made.cost_estimated is marked
