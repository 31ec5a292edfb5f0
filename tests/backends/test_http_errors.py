from __future__ import annotations

import json
from typing import Any

import pytest

from backends.http_errors import (
    MAX_MESSAGE,
    MAX_WORD,
    rejection,
)
from gateway.core.errors import (
    TandemError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
)

NOW = 1_800_000_000.0
KEY = "sk-canary-1234567890"


def error(status: int, body: Any = None, **headers: str) -> TandemError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return rejection("box", status, named, raw, (KEY,), now=NOW)


@pytest.mark.parametrize(
    ("status", "kind", "ours", "code", "retryable"),
    [
        (301, UpstreamBroken, 502, "upstream_redirect", True),
        (400, UpstreamRejected, 400, "upstream_rejected", False),
        (401, UpstreamError, 502, "upstream_auth", True),
        (402, UpstreamError, 502, "upstream_credit", True),
        (403, UpstreamError, 502, "upstream_auth", True),
        (404, UpstreamRejected, 404, "upstream_rejected", False),
        (408, UpstreamTimeout, 504, "upstream_timeout", True),
        (413, UpstreamRejected, 413, "upstream_rejected", False),
        (422, UpstreamRejected, 422, "upstream_rejected", False),
        (429, UpstreamOverloaded, 429, "rate_limit_exceeded", True),
        (500, UpstreamFailed, 502, "upstream_error", True),
        (503, UpstreamFailed, 502, "upstream_error", True),
        (504, UpstreamTimeout, 504, "upstream_timeout", True),
        (529, UpstreamOverloaded, 429, "rate_limit_exceeded", True),
        (204, UpstreamBroken, 502, "upstream_broken", True),
        (200, UpstreamBroken, 502, "upstream_broken", True),
    ],
)
def test_status(
    status: int, kind: type[TandemError], ours: int, code: str, retryable: bool
) -> None:
    """Each status has one class, one status of ours, and one answer to whether to try elsewhere."""
    got = error(status, b"<html>")
    assert type(got) is kind
    assert (got.status, got.code, got.retryable) == (ours, code, retryable)
    assert "'box'" in got.message


def test_rejection_keeps_what_the_upstream_said() -> None:
    """A client's own mistake comes back with the upstream's message, param, type and code."""
    said = {"message": "too long", "type": "t", "param": "messages", "code": "context_length"}
    got = error(400, {"error": said})
    assert "too long" in got.message
    assert (got.type, got.param, got.code) == ("t", "messages", "context_length")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_our_key_is_never_repeated(status: int) -> None:
    """An upstream that echoes our credential does not get it to a client."""
    got = error(status, {"error": {"message": f"wrong key {KEY}", "code": KEY}})
    assert KEY not in f"{got.message} {got.code} {got.param} {got.type} {got!r}"


@pytest.mark.parametrize("before", range(MAX_MESSAGE - 60, MAX_MESSAGE + 1, 6))
def test_length_is_capped_after_scrubbing(before: int) -> None:
    """Somebody else's words are kept short, and the cut leaves no half of our key behind."""
    long_key = "sk-" + "canary" * 30
    said = {"message": "x" * before + long_key * 9, "code": long_key * 2, "param": "p" * 999}
    body = json.dumps({"error": said}).encode()
    got = rejection("box", 400, {}, body, (long_key,), now=NOW)
    assert "canary" not in f"{got.message} {got.code}"
    assert len(got.message) < MAX_MESSAGE + 60
    assert len(got.param or "") == MAX_WORD + 1


def test_credential_failure_quotes_nothing() -> None:
    """Providers quote parts of a wrong key, so a 401 is told in our own words."""
    got = error(401, {"error": {"message": "Incorrect API key provided: sk-ca***7890"}})
    assert "7890" not in got.message


def test_failure_quotes_nothing() -> None:
    """A 5xx may hold a traceback with the prompt in it: only its code is told."""
    got = error(500, {"error": {"message": "ValueError: my secret prompt", "code": "oom"}})
    assert "prompt" not in got.message
    assert "oom" in got.message


def test_error_under_200() -> None:
    """An error document under 200 is as bad as the status it names, or a failure."""
    assert type(error(200, {"error": {"message": "m"}})) is UpstreamFailed
    assert type(error(200, {"error": {"message": "m", "code": 429}})) is UpstreamOverloaded


@pytest.mark.parametrize("status", [401, 500, 503])
@pytest.mark.parametrize(
    "header", ["x-request-id", "request-id", "x-ds-trace-id", "mistral-correlation-id"]
)
def test_the_upstreams_own_request_id_is_told(status: int, header: str) -> None:
    """A failure that only the provider can explain names the id that its support asks for."""
    assert "req_01abc" in rejection("box", status, {header: "req_01abc"}, b"", now=NOW).message


def test_a_request_id_is_an_id_and_no_key() -> None:
    """What is no plain word is not repeated, and neither is our key if somebody sends it back."""
    for said in ("<script>", "a b", "x" * 99, KEY):
        got = rejection("box", 500, {"x-request-id": said}, b"", (KEY,), now=NOW)
        assert said not in got.message


def test_groq_flex_full_is_overload() -> None:
    """Groq's 498 says that its flex tier is full: another upstream may answer."""
    assert isinstance(error(498), UpstreamOverloaded)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "the request exceeds the available context size, try increasing it",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    ],
)
def test_row_23_too_long_has_one_code(message: str) -> None:
    """Servers without a code for a prompt that is too long get OpenAI's; other 400s keep theirs."""
    got = error(400, {"error": {"message": message, "code": 400}})
    assert (got.status, got.code, got.retryable) == (400, "context_length_exceeded", False)
    assert error(400, {"error": {"message": "temperature is too high", "code": "t"}}).code == "t"
