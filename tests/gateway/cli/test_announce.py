"""What `tandem serve` prints can be pasted."""

from __future__ import annotations

import pytest

from gateway.cli.announce import reachable


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
        ("fe80::1", "[fe80::1]"),
        ("gpu-box", "gpu-box"),
    ],
)
def test_a_url_reaches_the_listener(host: str, shown: str) -> None:
    """An IPv6 address stands in brackets; what listens everywhere is asked on loopback."""
    assert reachable(host) == shown
