"""The strict border: one meaning or a 400."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.wire.strict import MAX_DEPTH, depth, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_reads_what_json_reads(body: dict[str, object]) -> None:
    """Every plain object comes back as the standard library reads it, compact or indented."""
    for raw in (json.dumps(body), json.dumps(body, indent=2, ensure_ascii=False)):
        assert parse(raw.encode("utf-8", "surrogatepass")) == json.loads(raw)


@given(st.binary(max_size=64))
def test_garbage_raises_only_invalid_request(raw: bytes) -> None:
    """No bytes make it raise anything else, and what it returns is an object."""
    try:
        assert isinstance(parse(raw), dict)
    except InvalidRequest as error:
        assert error.code == "invalid_json"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"b":{"a":1, "a":1}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"a":18446744073709551616}',
        b'{"a":-9223372036854775809}',
        b'{"a":1e999}',
        b"[1]",
        b'"text"',
        b"",
        b'{"a":1}{"b":2}',
        b'\xef\xbb\xbf{"a":1}',
    ],
)
def test_two_readings_are_refused(raw: bytes) -> None:
    """What two parsers could read differently is a 400."""
    with pytest.raises(InvalidRequest):
        parse(raw)


def test_depth_is_bounded() -> None:
    """Nesting to the limit passes, one level more does not, and many shallow brackets are fine."""

    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert depth(parse(nested(MAX_DEPTH))) == MAX_DEPTH
    with pytest.raises(InvalidRequest):
        parse(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidRequest):
        parse(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert len(parse(b'{"a":[' + b"[]," * 500 + b"[]]}")["a"]) == 501
