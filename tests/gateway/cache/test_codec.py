"""What leaves the process comes back equal, or is refused."""

from __future__ import annotations

import zlib
from dataclasses import fields

import pytest

from gateway.cache import codec
from gateway.cache.base import Entry
from gateway.core.chat import Choice, Completion, ToolCall, Usage

SECRET = b"s" * 32
LIMIT = 1024 * 1024


def entry(text: str = "Paris") -> Entry:
    call = ToolCall(id="call_1", name="f", arguments="{}")
    choice = Choice(
        index=1, text=text, reasoning="r", refusal="n", tool_calls=(call,), finish_reason="stop"
    )
    usage = Usage(
        prompt_tokens=1,
        completion_tokens=2,
        cached_tokens=3,
        reasoning_tokens=4,
        cost_usd=0.5,
        cut_tokens=5,
        accepted_prediction_tokens=6,
        rejected_prediction_tokens=7,
        estimated=True,
    )
    return Entry(
        completion=Completion(choices=(choice,), usage=usage),
        upstream="u",
        model="m",
        stored_at=12.5,
        cost_usd=0.5,
    )


def test_every_field_survives() -> None:
    """Encode and decode are inverse, also for fields that someone adds later."""
    full = entry()
    usage = full.completion.usage
    for part in (full, full.completion.choices[0], usage, full.completion.choices[0].tool_calls[0]):
        for each in fields(part):  # type: ignore[arg-type]
            if each.name == "logprobs":
                continue  # answers with them bypass the cache
            assert getattr(part, each.name), f"give {each.name} a value here, so that it is tested"
    assert codec.decode(codec.encode(full)) == full


def test_absent_usage_survives() -> None:
    """An answer without usage or cost comes back without them."""
    bare = Entry(completion=Completion(), upstream="u", model="m", stored_at=0.0)
    assert codec.decode(codec.encode(bare)) == bare


@pytest.mark.parametrize("size", [10, 5000])
def test_sealing_is_undone_by_the_same_key_and_secret(size: int) -> None:
    """A payload comes back from its seal, compressed or not."""
    payload = b"x" * size
    value = codec.seal(payload, key="k", secret=SECRET)
    assert codec.unseal(value, key="k", secret=SECRET, limit=LIMIT) == payload


def test_long_payloads_are_compressed() -> None:
    """Above a kilobyte the value is smaller than its text."""
    assert len(codec.seal(b"x" * 5000, key="k", secret=SECRET)) < 1000


@pytest.mark.parametrize("at", [0, 31, 32, 33, -1])
def test_a_changed_byte_is_refused(at: int) -> None:
    """A flip anywhere, in the MAC, the form or the payload, is Corrupt."""
    value = bytearray(codec.seal(b"payload", key="k", secret=SECRET))
    value[at] ^= 1
    with pytest.raises(codec.Corrupt):
        codec.unseal(bytes(value), key="k", secret=SECRET, limit=LIMIT)


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 32, b"x" * 100])
def test_a_foreign_value_is_refused(value: bytes) -> None:
    """What we did not write is Corrupt, however short."""
    with pytest.raises(codec.Corrupt):
        codec.unseal(value, key="k", secret=SECRET, limit=LIMIT)


def test_a_value_moved_to_another_key_is_refused() -> None:
    """A value is authentic under its own key only, and with its own secret only."""
    value = codec.seal(b"payload", key="k", secret=SECRET)
    for key, secret in (("other", SECRET), ("k", b"t" * 32)):
        with pytest.raises(codec.Corrupt):
            codec.unseal(value, key=key, secret=secret, limit=LIMIT)


def test_inflation_is_bounded() -> None:
    """Even an authentic value may not unpack to more than an entry may be."""
    value = codec.seal(b"x" * 10_000_000, key="k", secret=SECRET)
    assert len(value) < 100_000
    with pytest.raises(codec.Corrupt):
        codec.unseal(value, key="k", secret=SECRET, limit=LIMIT)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b"null", b'{"completion": null}', zlib.compress(b"{}"), b'{"completion":1'],
)
def test_what_is_no_entry_is_corrupt(payload: bytes) -> None:
    """Decoding something else raises Corrupt and nothing else."""
    with pytest.raises(codec.Corrupt):
        codec.decode(payload)


def test_a_field_of_a_newer_version_is_corrupt() -> None:
    """An entry written with fields we do not know is a miss, not a crash."""
    payload = codec.encode(entry()).replace(b'"reasoning":', b'"new_field":1,"reasoning":')
    with pytest.raises(codec.Corrupt):
        codec.decode(payload)


def test_text_without_utf8_form_is_corrupt() -> None:
    """A lone surrogate cannot be written, and says so."""
    with pytest.raises(codec.Corrupt):
        codec.encode(entry("\ud800"))
