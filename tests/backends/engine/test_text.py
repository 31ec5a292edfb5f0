"""Stop strings and UTF-8 across token borders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.text import TextStream


def run(pieces: list[bytes], stop: tuple[bytes, ...] = ()) -> list[bytes]:
    stream = TextStream(stop)
    shown = []
    for piece in pieces:
        shown.append(stream.push(piece))
        if stream.stopped:
            return shown
    return [*shown, stream.flush()]


def test_a_character_is_shown_once_it_is_whole() -> None:
    """A character split over tokens is shown with its last byte, never in parts."""
    assert run([b"a\xe2", b"\x82", b"\xac!"]) == [b"a", b"", "€!".encode(), b""]


def test_a_character_that_never_ends_is_replaced() -> None:
    """What is still incomplete at the end becomes U+FFFD, as bytes that are no UTF-8 do."""
    assert run([b"a\xe2\x82"]) == [b"a", "\ufffd".encode()]
    assert run([b"\xff"])[0] == "\ufffd".encode()


def test_a_stop_string_across_tokens_is_never_shown() -> None:
    """What might become a stop string is held back, and cut if it does."""
    assert run([b"one\n", b"\n", b"two"], (b"\n\n",)) == [b"one", b""]


def test_what_did_not_become_a_stop_string_is_shown() -> None:
    """Held text is released as soon as the next token contradicts the stop string."""
    assert run([b"one\n", b"two\n"], (b"\n\n",)) == [b"one", b"\ntwo", b"\n"]


def test_the_first_complete_stop_string_counts() -> None:
    """With several stop strings in one token, text ends before the one that is complete first."""
    assert run([b"abcd"], (b"d", b"b")) == [b"a"]


@given(
    st.text(alphabet="ab\n€", max_size=40),
    st.lists(st.text(alphabet="ab\n€", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_borders_do_not_matter(text: str, stops: list[str], data: st.DataObject) -> None:
    """However the bytes are cut into tokens, the same text is shown."""
    raw, pieces = text.encode(), []
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        pieces.append(raw[:size])
        raw = raw[size:]
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    shown = b"".join(run(pieces, tuple(stop.encode() for stop in stops)))
    assert shown.decode() == (text[: min(ends)[1]] if ends else text)
