"""The session's messages: what goes out comes back, and nothing else comes in."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.protocol import MAX_DRAFT
from backends.speculative.parse import parse
from backends.speculative.session import (
    MAX_MESSAGE,
    Cancel,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    MalformedMessage,
    Message,
    Open,
    Opened,
    Stale,
    pack,
    pack_text,
)
from gateway.core.chat import Sampling

PRINT = Fingerprint(tokenizer_sha="ab", vocab_n=32000, template_sha="cd", bos=1, eos=2)
EXAMPLES: list[Message] = [
    Open(model="m", model_fp=PRINT, request={"messages": [{"role": "user", "content": "hé"}]}),
    Open(
        prompt_ids=(1, 2, 3),
        coupling="greedy",
        sampling=Sampling(max_tokens=5, temperature=0.0, seed=-7, stop=("\n", "é"), top_k=-1),
    ),
    Opened(session="s", prompt_ids=(5,), model_fp=PRINT, t1_ms=2.5, tv_ms={"2": 3.5}),
    Draft(epoch=3, base_pos=17, tokens=(4, 5), final=True),
    Commit(
        epoch=1,
        base_pos=4,
        tokens=(7, 8),
        text_bytes="é".encode(),
        n_draft_used=2,
        n_accepted=1,
        source="draft",
        finish="stop",
        width=3,
        completion_tokens=6,
    ),
    Stale(epoch=1, base_pos=2),
    Cancel(),
    Failure(code="engine_failed", message="gone", retry=True, fallback="stream"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: m.type)
def test_round_trip(message: Message) -> None:
    """Every message survives both encodings."""
    assert parse(pack(message)) == message
    assert parse(pack_text(message)) == message


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_garbage_is_malformed(data: bytes | str) -> None:
    """Whatever comes, the reader raises its one type or returns a message."""
    try:
        parse(data)
    except MalformedMessage:
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_damaged_fields_are_malformed(message: Message, data: st.DataObject) -> None:
    """A real message with any one field replaced by anything is read or Malformed."""
    fields = msgpack.unpackb(pack(message))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(VALUES)
    try:
        parse(msgpack.packb(fields))
    except MalformedMessage:
        pass


def draft(**changes: Any) -> bytes:
    fields = {"type": "draft", "epoch": 0, "base_pos": 0, "tokens": [1], **changes}
    return bytes(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data",
    [
        draft(type="hello"),
        draft(type=7),
        draft(base_pos=-1),
        draft(base_pos=2**31),
        draft(epoch=True),
        draft(tokens=[]),
        draft(tokens=[-1]),
        draft(tokens=[True]),
        draft(tokens=[1.0]),
        draft(tokens=[1] * (MAX_DRAFT + 1)),
        draft(final=1),
        b"x" * (MAX_MESSAGE + 1),
        json.dumps([1]),
        json.dumps({"type": "open", "v": 1}),
        json.dumps({"type": "open", "v": 1, "prompt_ids": [1], "request": {}}),
        json.dumps({"type": "open", "v": 1, "prompt_ids": [1], "coupling": "rejection"}),
        json.dumps({"type": "open", "v": 1, "prompt_ids": [1], "sampling": {"temperature": 9}}),
        json.dumps({"type": "open", "v": 1, "prompt_ids": [1], "sampling": {"stop": [""]}}),
        json.dumps({"type": "commit", "epoch": 0, "base_pos": 0, "n_accepted": 1}),
    ],
)
def test_out_of_range_is_malformed(data: bytes | str) -> None:
    """Types and bounds are checked before anyone acts on a message."""
    with pytest.raises(MalformedMessage):
        parse(data)


def test_unknown_fields_are_skipped() -> None:
    """A newer peer may say more than we understand."""
    assert parse(draft(probabilities=[0.5])) == Draft(epoch=0, base_pos=0, tokens=(1,))


def test_errors_quote_nothing() -> None:
    """A refusal names the field and not what was in it."""
    with pytest.raises(MalformedMessage) as caught:
        parse(json.dumps({"type": "open", "v": 1, "prompt_ids": "my secret"}))
    assert "prompt_ids" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


def test_fingerprints_agree_on_ids_only() -> None:
    """Drafts need the target's vocabulary, not its template: the companion renders."""
    other_template = Fingerprint(tokenizer_sha="ab", vocab_n=32000, template_sha="zz")
    assert other_template.drafts_for(PRINT)
    assert not Fingerprint(tokenizer_sha="ab", vocab_n=32001).drafts_for(PRINT)
    assert not Fingerprint(tokenizer_sha="xx", vocab_n=32000).drafts_for(PRINT)
