"""Thoughts inside the text are taken out of it the same way however the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.events import Event, Finish, Frame, ReasoningDelta, TextDelta, is_content
from gateway.wire.chunk_stream import ChunkStream
from gateway.wire.inline_reasoning import MAX_LEADING_BLANKS, InlineReasoning, ThoughtSplitter
from gateway.wire.openai import read_document

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
ALPHABET = ["<think>", "</think>", "<", "</", "think>", " ", "\n", "hm", "🦆", "<thin", "x"]

answers = st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join)
cuts = st.lists(st.integers(0, 80), max_size=8)


def pieces(text: str, places: Sequence[int]) -> list[str]:
    ends = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def split(parts: Sequence[str], *, opened: bool = False) -> tuple[str, str]:
    splitter = ThoughtSplitter(opened=opened)
    found = [*(splitter.feed(part) for part in parts), splitter.end()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


def frame(delta: dict[str, object], finish: str | None = None, index: int = 0) -> bytes:
    choices = [{"index": index, "delta": delta, "finish_reason": finish, "odd": "kept"}]
    document = {**HEAD, "choices": choices, "citations": ["https://a.test"]}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def read(raw: bytes, places: Sequence[int] = (), *, own: bool = True) -> list[Event]:
    stream = ChunkStream(own_wire=own, thoughts=InlineReasoning())
    ends = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    return [e for a, b in zip(ends, ends[1:], strict=False) for e in stream.read(raw[a:b])]


def said(events: Sequence[Event]) -> tuple[str, str]:
    thoughts = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    return thoughts, "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think>four", ("hm", "four")),
        ("\n<think>\nhm\n</think>\n\nfour\n", ("hm\n", "four\n")),
        ("<think>\n\n</think>\n\nfour", ("", "four")),
        ("four", ("", "four")),
        ("  four", ("", "  four")),
        ("", ("", "")),
        (" ", ("", " ")),
        ("<thinking>four", ("", "<thinking>four")),
        ("<thi", ("", "<thi")),
        ("a <think>b</think> c", ("", "a <think>b</think> c")),
        ("<think>a</think>b <think>c</think>", ("a", "b <think>c</think>")),
        ("<think>never ends </thi", ("never ends </thi", "")),
        ("<think>a < b </ think></think>c", ("a < b </ think>", "c")),
        (" " * (MAX_LEADING_BLANKS + 1) + "<think>a", ("", " " * 65 + "<think>a")),
    ],
)
def test_one_block_at_the_beginning(text: str, expected: tuple[str, str]) -> None:
    """One block before anything else is thoughts; other tags are text."""
    assert split([text]) == expected
    assert split(list(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hm</think>\n\nfour", ("hm", "four")),
        ("<think>\nhm</think>four", ("hm", "four")),
        ("hm", ("hm", "")),
        ("<th", ("<th", "")),
    ],
)
def test_a_template_that_opened_the_block(text: str, expected: tuple[str, str]) -> None:
    """Where the prompt holds the opening tag the answer begins with thoughts."""
    assert split([text], opened=True) == expected
    assert split(list(text), opened=True) == expected


@given(answers, cuts, st.booleans())
@example(" " * 70 + "<think>a</think>b", [65], False)
def test_cuts_do_not_matter(text: str, places: list[int], opened: bool) -> None:
    """A text cut anywhere gives what the whole gives, and a text without the tag is itself."""
    whole = split([text], opened=opened)
    assert split(pieces(text, places), opened=opened) == whole
    if not opened and not text.lstrip().startswith("<think>"):
        assert whole == ("", text)


@given(answers, cuts, cuts, st.booleans())
def test_a_stream_cut_at_any_byte(
    text: str, places: list[int], bytes_at: list[int], own: bool
) -> None:
    """A stream's events say what the document's do, whatever its deltas and reads are."""
    frames = [frame({"role": "assistant", "content": ""})]
    frames += [frame({"content": piece}) for piece in pieces(text, places)]
    frames += [frame({}, "stop"), b"data: [DONE]\n\n"]
    raw = b"".join(frames)
    many = [place * len(raw) // 80 for place in bytes_at]
    message = {"role": "assistant", "content": text}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    choice = read_document(InlineReasoning().document(json.dumps(whole).encode())).choices[0]
    events = read(raw, many, own=own)
    assert said(events) == (choice.reasoning, choice.text) == split([text])
    assert isinstance(events[-1], Finish)


def test_frames_say_what_events_say() -> None:
    """A frame that was changed has its thoughts in their own member and the rest as it came."""
    texts = ["<thi", "nk>a", "b</thi", "nk>", "\n\nfo", "ur"]
    raw = b"".join(map(frame, [{"content": text} for text in texts])) + frame({}, "stop")
    events = read(raw, range(len(raw)))
    assert said(events) == ("ab", "four")
    again = ChunkStream(own_wire=False)
    relayed = b"".join(event.frame or b"" for event in events)
    assert said(list(again.read(relayed))) == ("ab", "four")
    assert relayed.count(b"https://a.test") == relayed.count(b'"odd"') == len(texts) + 1
    assert b"think" not in relayed
    assert relayed.endswith(frame({"content": "ur"}) + frame({}, "stop"))  # byte for byte again


def test_held_text_comes_with_the_end() -> None:
    """What may have become a tag is said when the answer finishes, or [DONE] ends it."""
    assert said(read(frame({"content": "<thi"}) + frame({}, "stop"))) == ("", "<thi")
    events = read(frame({"content": "<thi"}) + b"data: [DONE]\n\n")
    assert said(events) == ("", "<thi")
    assert b'"<thi"' in (events[-1].frame or b"")


def test_a_thought_is_content_and_its_tag_is_not() -> None:
    """Nothing is committed by a tag; the first thought after it commits."""
    first, second = read(frame({"content": "<think>\n"}) + frame({"content": "hm"}))
    assert isinstance(first, Frame) and not is_content(first)
    assert isinstance(second, ReasoningDelta) and is_content(second)


def test_each_choice_by_itself() -> None:
    """Choices think apart from each other."""
    raw = frame({"content": "<think>a"}) + frame({"content": "plain"}, index=1)
    events = read(raw + frame({"content": "</think>b"}))
    texts = [(e.choice, e.text) for e in events if isinstance(e, TextDelta)]
    assert texts == [(1, "plain"), (0, "b")]


@pytest.mark.parametrize("named", ["reasoning", "reasoning_content"])
def test_a_server_that_parses_them_itself(named: str) -> None:
    """Thoughts under a name of their own leave the text as it is."""
    raw = frame({named: "hm"}) + frame({"content": "hi"})
    assert said(read(raw)) == ("hm", "hi")
    raw = frame({named: "hm", "content": "<th"}) + frame({"content": "ink>"})
    assert said(read(raw)) == ("hm", "<think>")
