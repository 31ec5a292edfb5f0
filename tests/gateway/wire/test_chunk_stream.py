"""Streams read by their bytes give what streams read by parsing give."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.events import Event, Finish, Frame, ReasoningDelta, TextDelta, UsageReport
from gateway.wire.chunk_stream import ChunkStream
from gateway.wire.openai import ChunkReader
from gateway.wire.openai_errors import Reported
from gateway.wire.sse import DONE, FrameTooLarge, SseDecoder
from gateway.wire.upstream_json import Malformed

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def frame(delta: dict[str, object], finish: str | None = None, end: bytes = b"\n\n") -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    document = {**HEAD, "choices": choices, "usage": None}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + end


def said(events: Sequence[Event]) -> tuple[str, str, bytes, list[Event]]:
    """Text, reasoning, bytes, and all other events: what may not depend on how it was read."""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    thoughts = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    frames = b"".join(event.frame or b"" for event in events)
    rest = [event for event in events if not isinstance(event, TextDelta | ReasoningDelta)]
    return text, thoughts, frames, rest


def parsed(raw: bytes) -> list[Event]:
    """The events, each frame parsed."""
    reader = ChunkReader()
    events: list[Event] = []
    for each in SseDecoder().feed(raw):
        if each.data == DONE:
            break
        if each.data is not None:
            events += reader.read(each.data, each.raw)
    return events


def read(raw: bytes, cuts: Sequence[int] = ()) -> tuple[list[Event], ChunkStream]:
    stream = ChunkStream(own_wire=True)
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    events: list[Event] = []
    for begin, end in zip(places, places[1:], strict=False):
        part = raw[begin:end]
        event = stream.read_one(part)
        events += [event] if event is not None else stream.read(part)
    return events, stream


deltas = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(max_size=12)),
    st.builds(lambda text: {"reasoning_content": text}, st.text(max_size=6)),
    st.just({"role": "assistant", "content": ""}),
    st.just({"content": 'say "\\n" and \n'}),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(deltas, max_size=12), st.lists(st.integers(0, 4000), max_size=6), st.booleans())
def test_same_as_parsed(said_so: list[dict[str, object]], cuts: list[int], windows: bool) -> None:
    """Whatever the deltas and wherever the network cuts them: the same text, the same bytes."""
    end = b"\r\n\r\n" if windows else b"\n\n"
    raw = b"".join(frame(delta, end=end) for delta in said_so)
    raw += frame({}, "stop", end=end) + b"data: [DONE]" + end
    events, stream = read(raw, cuts)
    assert said(events) == said(parsed(raw))
    assert stream.done


@settings(max_examples=200, deadline=None)
@given(st.lists(deltas, max_size=12), st.booleans())
def test_a_frame_at_a_time(said_so: list[dict[str, object]], windows: bool) -> None:
    """The same where each frame comes by itself, and then one event for each."""
    frames = [frame(delta, end=b"\r\n\r\n" if windows else b"\n\n") for delta in said_so]
    raw = b"".join(frames)
    events, _ = read(raw, [sum(map(len, frames[: at + 1])) for at in range(len(frames))])
    assert said(events) == said(parsed(raw))


def test_few_events() -> None:
    """Frames that differ in their text alone and came in one read are one event."""
    frames = [frame({"content": f" {at}"}) for at in range(20)]
    events, _ = read(b"".join(frames))
    assert len(events) == 2
    assert [event.frame for event in events] == [frames[0], b"".join(frames[1:])]


def test_usage_and_finish_are_seen() -> None:
    """Frames that differ in anything else are parsed: no finish, usage or error is missed."""
    text = frame({"content": "a"}) * 3
    counts = {"prompt_tokens": 1, "completion_tokens": 2}
    usage = b"data: " + json.dumps({**HEAD, "choices": [], "usage": counts}).encode() + b"\n\n"
    events, stream = read(text + frame({"content": "z"}, "stop") + usage + b"data: [DONE]\n\n")
    assert [type(e) for e in events if not isinstance(e, TextDelta)] == [Finish, UsageReport]
    assert stream.complete
    with pytest.raises(Reported):
        read(text + b'data: {"error":{"message":"no"}}\n\n')


def test_sloppy_streams_are_read() -> None:
    """Empty data, which by the standard is no event, is none; [DONE] may have spaces behind it."""
    text = b"data:\n\ndata: \n\ndata\n\n" + frame({"content": "a"}) + b"data:\n\n"
    events, stream = read(text + frame({}, "stop") + b"data: [DONE] \n\n")
    assert [type(event) for event in events] == [TextDelta, Finish]
    assert stream.done


BROKEN = {
    "a bare quote": b'a"b',
    "a control character": b"a\x01b",
    "a bad escape": b"a\\xb",
    "no UTF-8": b"a\xffb",
    "half a surrogate pair": b"\\ud83d",
}


@pytest.mark.parametrize("inside", BROKEN.values(), ids=BROKEN.keys())
def test_malformed_text(inside: bytes) -> None:
    """A frame that looks like the others but is no JSON is refused, and none of its bytes pass."""
    good = frame({"content": "PLACE"})
    bad = good.replace(b"PLACE", inside)
    with pytest.raises(Malformed):
        parsed(bad)
    stream = ChunkStream(own_wire=True)
    passed: list[Event] = []
    with pytest.raises(Malformed):
        for event in stream.read(good * 3 + bad + good):
            passed.append(event)  # noqa: PERF402
    assert said(passed)[2] == good * 3
    alone = ChunkStream(own_wire=True)
    list(alone.read(good))
    assert alone.read_one(good) is not None
    assert alone.read_one(bad) is None


def test_a_character_in_two_frames() -> None:
    """Half a character in one frame and half in the next is no text, though joined it would be."""
    good = frame({"content": "PLACE"})
    halves = [good.replace(b"PLACE", half) for half in (b"\xc3", b"\xa4")]
    with pytest.raises(Malformed):
        read(good * 3 + b"".join(halves))


def test_frames_before_an_endless_one() -> None:
    """What came before a frame that is too long is passed on before it is refused."""
    stream = ChunkStream(own_wire=True, max_frame=2000)
    passed: list[Event] = []
    with pytest.raises(FrameTooLarge):
        for event in stream.read(frame({"content": "one"}) + b"data: " + b"x" * 3000):
            passed.append(event)  # noqa: PERF402
    assert said(passed)[0] == "one"
    long = frame({"content": "y" * 3000})
    with pytest.raises(FrameTooLarge):
        list(ChunkStream(own_wire=True, max_frame=2000).read(frame({"content": "one"}) + long))


def test_the_text_is_also_the_model() -> None:
    """A text that stands elsewhere in its frame too does not make a wrong pattern."""
    raw = b"".join(frame({"content": text}) for text in ("m", "m", "chatcmpl-1", "stop", "x", "y"))
    assert said(read(raw)[0]) == said(parsed(raw))


def test_foreign_wire() -> None:
    """For a client of another wire the texts come without frames."""
    stream = ChunkStream(own_wire=False)
    events = list(stream.read(frame({"content": "a"}) * 3))
    assert said(events)[:3] == ("aaa", "", b"")
    assert not any(isinstance(event, Frame) for event in events)
