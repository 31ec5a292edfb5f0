"""What is read of a request's headers where one of them comes twice."""

from __future__ import annotations

import pytest

from gateway.core.errors import InvalidRequest
from gateway.headers import headers_of


def read(*headers: tuple[str, str]) -> dict[str, str]:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return headers_of({"headers": raw}, {"x-team"})


def test_a_repeated_header_is_a_list() -> None:
    """Its values are one, in order: a no-store is not lost to what comes after it."""
    assert read(("cache-control", "no-store"), ("a", "b"), ("cache-control", "max-age=5")) == {
        "cache-control": "no-store, max-age=5",
        "a": "b",
    }


@pytest.mark.parametrize("name", ["x-tandem-zone", "x-tandem-exact", "authorization", "x-team"])
def test_what_says_one_thing_may_not_say_two(name: str) -> None:
    """It is refused by its name; said twice and the same it is well."""
    with pytest.raises(InvalidRequest) as caught:
        read((name, "a"), ("x", "y"), (name, "b"))
    assert caught.value.param == name
    assert read((name, "a"), (name, "a")) == {name: "a"}
