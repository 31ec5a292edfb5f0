"""What clients say about their patience."""

from __future__ import annotations

import pytest

from gateway.deadlines import client_patience


@pytest.mark.parametrize(
    ("headers", "stream", "patience"),
    [
        ({}, False, None),
        ({"x-request-timeout": "2.5"}, True, 2.5),
        ({"x-stainless-read-timeout": "600"}, False, 600),
        ({"x-stainless-read-timeout": "600"}, True, None),
        ({"x-stainless-read-timeout": "600", "x-request-timeout": "30"}, False, 30),
        ({"x-request-timeout": "soon"}, False, None),
        ({"x-request-timeout": "-1"}, False, None),
        ({"x-request-timeout": "nan"}, False, None),
        ({"x-request-timeout": "inf", "x-stainless-read-timeout": "9"}, False, 9),
    ],
)
def test_patience(headers: dict[str, str], stream: bool, patience: float | None) -> None:
    """The shortest that applies counts; nonsense does not."""
    assert client_patience(headers, stream=stream) == patience
