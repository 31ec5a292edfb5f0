"""Loopback without keys: programs get in, web pages do not."""

from __future__ import annotations

import pytest

from gateway.core.errors import Forbidden, WrongMediaType
from gateway.limits.local_origin import LocalOrigin

WALLS = LocalOrigin()
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "host",
    ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "localhost", "[::1]", "LOCALHOST:9000"],
)
def test_programs_on_this_machine(host: str) -> None:
    """Any spelling of loopback and any port, which a tunnel may have changed."""
    WALLS.check("POST", {"host": host, **JSON})
    WALLS.check("GET", {"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8080",
        "192.168.1.2:8080",
        "localhost@evil.example",
        "::1",
        "",
    ],
)
def test_a_rebound_name_is_refused(host: str) -> None:
    """A page under a name that now resolves to us still says that name in Host."""
    with pytest.raises(Forbidden) as caught:
        WALLS.check("GET", {"host": host})
    assert caught.value.status == 403
    assert "evil" not in caught.value.message


def test_a_missing_host_is_refused() -> None:
    """HTTP/1.1 requires it; without it nothing says whom the client meant."""
    with pytest.raises(Forbidden):
        WALLS.check("GET", {})


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "https://localhost:8080", ""],
)
def test_a_foreign_page_is_refused(origin: str) -> None:
    """Another origin, even on this machine, may not read or write here."""
    for method in ("GET", "POST", "OPTIONS"):
        with pytest.raises(Forbidden):
            WALLS.check(method, {"host": "localhost:8080", "origin": origin, **JSON})


def test_our_own_page_is_served() -> None:
    """A page that came from this gateway speaks to its own origin."""
    WALLS.check("POST", {"host": "localhost:8080", "origin": "http://localhost:8080", **JSON})


def test_an_operators_exceptions() -> None:
    """Names and origins from the configuration are let in, and only those."""
    walls = LocalOrigin(
        allowed_hosts=("tandem.test", "box:81"), allowed_origins=("http://localhost:3000",)
    )
    walls.check("POST", {"host": "tandem.test:8080", "origin": "http://localhost:3000", **JSON})
    walls.check("GET", {"host": "box:81"})
    with pytest.raises(Forbidden):
        walls.check("GET", {"host": "box:82"})


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
def test_a_form_is_not_json(content_type: str) -> None:
    """What a page may send without asking first is 415, and the sentence says what to send."""
    headers = {"host": "localhost:8080", "content-type": content_type}
    with pytest.raises(WrongMediaType, match="application/json") as caught:
        WALLS.check("POST", headers)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"],
)
def test_json_in_its_spellings(content_type: str) -> None:
    """Parameters, case and structured suffixes are all JSON."""
    WALLS.check("POST", {"host": "localhost:8080", "content-type": content_type})
