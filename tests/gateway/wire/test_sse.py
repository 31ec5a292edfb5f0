from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.sse import FrameTooLarge, SseDecoder, SseFrame, encode_comment, encode_data

ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.builds(lambda text: b"data: " + text.encode(), st.sampled_from(["é", "😀{}", "x y", ""])),
    st.sampled_from([b"event: error", b": comment", b"id: 7", b"data", b"data:tight", b"odd"]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any stream of whole events, each event with one style of line ending."""
    stream = b""
    for _ in range(draw(st.integers(1, 5))):
        ending = draw(ENDINGS)
        lines = draw(st.lists(LINES, min_size=1, max_size=3))
        stream += ending.join(lines) + ending * 2
    return stream


def recut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def decode(parts: list[bytes]) -> tuple[list[SseFrame], bytes]:
    decoder = SseDecoder()
    frames = [frame for part in parts for frame in decoder.feed(part)]
    return frames, decoder.rest


@given(streams(), st.lists(st.integers(0, 400), max_size=12))
def test_cutting_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    """However the network cuts a stream, inside UTF-8, CRLF or an event, its frames are the same,
    and their bytes joined are the stream."""
    whole, _ = decode([stream])
    pieces, rest = decode(recut(stream, cuts))
    singly, _ = decode([bytes([byte]) for byte in stream])
    assert pieces == whole == singly
    assert b"".join(frame.raw for frame in pieces) + rest == stream


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_line_endings(ending: bytes) -> None:
    """All three line endings of the standard end lines and events."""
    lines = [b"event: error", b"data: one", b"data: two", b"", b": ping", b"", b""]
    frames, rest = decode([ending.join(lines)])
    assert [(frame.event, frame.data) for frame in frames] == [("error", b"one\ntwo"), ("", None)]
    assert rest == b""


def test_bare_cr_is_not_held_back() -> None:
    """An event that ends in bare CRs is there at once, not when the next one comes."""
    assert [frame.data for frame in SseDecoder().feed(b"data: x\r\r")] == [b"x"]


def test_byte_order_mark() -> None:
    """A byte order mark before the first event is not part of its first field's name."""
    frames, _ = decode([b"\xef\xbb\xbfdata: x\n\ndata: y\n\n"])
    assert [frame.data for frame in frames] == [b"x", b"y"]


def test_unfinished_event_is_not_an_event() -> None:
    """What has no blank line after it is never dispatched, but can be looked at."""
    frames, rest = decode([b"data: x\n\ndata: y\n"])
    assert [frame.data for frame in frames] == [b"x"]
    assert rest == b"data: y\n"


@pytest.mark.parametrize("ended", [True, False])
def test_too_large(ended: bool) -> None:
    """An event beyond the limit is refused, whether or not its end ever comes."""
    decoder = SseDecoder(max_frame=64)
    decoder.feed(b"data: fits\n\n")
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"data: " + b"x" * 64 + (b"\n\n" if ended else b""))


def test_memory_is_bounded_by_the_limit() -> None:
    """An endless line is refused when it passes the limit, not when it ends."""
    decoder = SseDecoder(max_frame=1000)
    with pytest.raises(FrameTooLarge):
        for _ in range(11):
            decoder.feed(b"x" * 100)


def test_encode() -> None:
    """What is encoded decodes to itself, and a comment cannot break out of its line."""
    frames, _ = decode([encode_data(b'{"a":1}'), encode_comment("still\nhere\r\n\r\ndata: x")])
    assert [frame.data for frame in frames] == [b'{"a":1}', None]
