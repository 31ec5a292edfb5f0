"""Static keys: who comes in, who does not, and that a key is never said aloud."""

from __future__ import annotations

import pytest

from gateway.core.errors import AuthenticationFailed
from gateway.core.exchange import Caller
from gateway.core.routing import Zone
from gateway.limits.keys import (
    PREFIX,
    Keys,
    OpenGateway,
    callers_from,
    check_bind,
    create,
    digest_of,
)

WEB = Caller(tenant="web", key_id=digest_of("tdm-web")[:8], zone=Zone.ORGANISATION)
KEYS = Keys({digest_of("tdm-web"): WEB})


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer tdm-web"},
        {"authorization": "bearer  tdm-web "},
        {"x-api-key": "tdm-web"},
        {"authorization": "Bearer sk-dummy", "x-api-key": "tdm-web"},
        {"authorization": "Basic eA==", "x-api-key": "tdm-web"},
    ],
)
def test_a_known_key(headers: dict[str, str]) -> None:
    """A Bearer token and `x-api-key` both say who is asking."""
    assert KEYS.authenticate(headers) is WEB


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({}, "didn't provide an API key"),
        ({"authorization": "Bearer "}, "didn't provide an API key"),
        ({"authorization": "tdm-web"}, "didn't provide an API key"),
        ({"authorization": "Bearer tdm-wen"}, "Incorrect API key provided"),
        ({"authorization": "Bearer " + digest_of("tdm-web")}, "Incorrect API key provided"),
        ({"authorization": "Bearer sha256:" + digest_of("tdm-web")}, "Incorrect API key provided"),
        ({"x-api-key": "\udcff" * 1000}, "Incorrect API key provided"),
    ],
)
def test_no_key_no_entry(headers: dict[str, str], part: str) -> None:
    """Missing, wrong, or a digest in a key's place: 401 in OpenAI's words, nothing echoed."""
    with pytest.raises(AuthenticationFailed, match=part) as caught:
        KEYS.authenticate(headers)
    error = caught.value
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.headers["www-authenticate"] == "Bearer"
    assert "tdm" not in error.message


def test_without_keys_everyone_is_the_default_caller() -> None:
    """SDKs always send some key; where none is needed it is not looked at."""
    keys = Keys({})
    assert not keys
    assert keys.authenticate({"authorization": "Bearer anything"}) == Caller()


def test_a_new_key_works_by_its_digest() -> None:
    """What `create` prints fits into the configuration, and two keys are never the same."""
    key, digest = create()
    assert key.startswith(PREFIX)
    assert len(key) >= len(PREFIX) + 43  # 256 bits in base64
    caller = Caller(tenant="new")
    keys = Keys({digest.removeprefix("sha256:"): caller})
    assert keys.authenticate({"authorization": f"Bearer {key}"}) is caller
    assert create()[0] != key


def test_the_environment_sets_one_key() -> None:
    """TANDEM_API_KEY joins the configured keys; empty, it is not there."""
    both = callers_from({digest_of("tdm-web"): WEB}, {"TANDEM_API_KEY": "mine"})
    assert len(both) == 2
    mine = Keys(both).authenticate({"x-api-key": "mine"})
    assert (mine.tenant, mine.key_id) == ("default", digest_of("mine")[:8])
    assert callers_from({}, {"TANDEM_API_KEY": " "}) == {}
    # A key that is also configured keeps what the configuration says of it.
    assert callers_from({digest_of("mine"): WEB}, {"TANDEM_API_KEY": "mine"}) == {
        digest_of("mine"): WEB
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_key(host: str) -> None:
    """Only this machine can reach it."""
    check_bind(host, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "myhost", "localhost.evil"])
def test_no_open_gateway(host: str) -> None:
    """Beyond loopback, no keys means no gateway; with keys any address is fine."""
    with pytest.raises(OpenGateway, match="TANDEM_API_KEY"):
        check_bind(host, has_keys=False)
    check_bind(host, has_keys=True)
