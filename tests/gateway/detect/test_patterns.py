"""What is found and what is not: generated private data, and texts that only look like some."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect import checks
from gateway.detect.patterns import KINDS, OVERLAP, patterns
from gateway.detect.scan import PIECE, Stopped, scan
from tests.fakes.private_data import BENIGN, POSITIVES, SUFFIXES

ALL = patterns(KINDS, SUFFIXES)
SETTINGS = {
    "plain": "{}",
    "sentence": "Please look at {} and tell me what it is.",
    "line": "first line\n{}\nlast line",
    "quoted": 'he said "{}", twice',
    "brackets": "({})",
    "followed": "{} 12/27 123",
    "among": "4000 0000 0000 0000 id12 {} 4000 0000 0000 0000",
}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32), around=st.sampled_from(sorted(SETTINGS)))
def test_generated_data_is_found(kind: str, seed: int, around: str) -> None:
    """Whatever is right in form and check digits is found, wherever in a text it stands."""
    text = SETTINGS[around].replace("{}", POSITIVES[kind](Random(seed)))
    assert kind in scan(text, ALL), text


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32))
def test_json_inside_json_hides_nothing(kind: str, seed: int) -> None:
    """A tool's arguments are JSON in a JSON string: escapes do not hide what stands behind them."""
    value = POSITIVES[kind](Random(seed))
    assert kind in scan(json.dumps({"text": f"a\n{value}\tb"}), ALL)
    escaped = "".join(f"\\u{ord(each):04x}" if each == "@" else each for each in value)
    assert kind in scan(escaped, ALL)


@pytest.mark.parametrize("text", BENIGN)
def test_benign_texts_have_nothing(text: str) -> None:
    """Prose, code and logs that give nothing away have no finding, of any kind."""
    assert scan(text, ALL) == ()


@pytest.mark.parametrize("kind", ["cards", "iban"])
@given(seed=st.integers(0, 2**32), at=st.integers(0, 40), to=st.integers(1, 9))
def test_a_wrong_check_digit_is_no_finding(kind: str, seed: int, at: int, to: int) -> None:
    """One digit changed, and it is a number like any other."""
    value = POSITIVES[kind](Random(seed))
    places = [i for i, each in enumerate(value) if each.isdigit()]
    # The first four digits say the scheme or the country: a change there may be right by chance.
    place = places[4:][at % (len(places) - 4)] if kind == "cards" else places[2:][at % 8]
    changed = str((int(value[place]) + to) % 10)
    wrong = value[:place] + changed + value[place + 1 :]
    only = patterns([kind])
    if kind == "iban":
        assert not checks.is_iban(wrong.encode())
    else:
        assert scan(f"no {wrong} no", only) == ()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("cards", "４１１１ １１１１ １１１１ １１１１"),
        ("cards", "4111\u00a01111\u00a01111\u00a01111"),
        ("cards", "4111\u20111111\u20111111\u20111111"),
        ("email", "jo\u200bhn@ac\u00adme.com"),
        ("email", "jürgen@müller.de"),
        ("keys", "x:-----BEGIN PGP PRIVATE KEY BLOCK-----"),
        ("hosts", "fd12:3456:789a::1"),
        ("iban", "DE89 3704 0044 0532 0130 00 AND MORE"),
    ],
)
def test_other_spellings(kind: str, text: str) -> None:
    """Full-width digits, odd blanks and dashes, invisible characters and capitals after it."""
    assert kind in scan(text, ALL)


@given(place=st.integers(PIECE - 2 * OVERLAP, PIECE + 2 * OVERLAP), seed=st.integers(0, 2**32))
def test_a_long_text_is_scanned_in_pieces_without_a_seam(place: int, seed: int) -> None:
    """What lies across the end of a piece is found all the same."""
    text = "x " * (place // 2) + POSITIVES["iban"](Random(seed)) + " x" * PIECE
    assert "iban" in scan(text, patterns(["iban"]))


def test_a_scan_that_nobody_waits_for_stops() -> None:
    """Between two pieces it looks whether it is still wanted."""
    with pytest.raises(Stopped):
        scan("x" * PIECE * 3, ALL, lambda: True)


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: raw.decode("latin-1")))
def test_any_text_can_be_scanned(text: str) -> None:
    """No text breaks it, surrogates included."""
    assert set(scan(text, ALL)) <= set(KINDS)
    assert set(scan(text + "\ud800", ALL)) <= set(KINDS)


def test_the_patterns_are_linear() -> None:
    """Texts made to send a backtracking matcher astray are scanned whole, and have nothing."""
    bad = ["a@" * 50_000, "4" * 99_999, "4 " * 50_000, "DE89" + "1" * 99_999, "key=" * 30_000]
    for text in bad:
        assert scan(text, ALL) == ()
