"""An upstream's refusal as one of ours: status, headers and body in, an error of the tree out.

Pure. Whose fault it is decides: the client's goes back to the client with the upstream's words, our
own credential's does not, and what another upstream may do better is retryable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from backends import rate_limits
from gateway.core.errors import (
    TandemError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.wire.openai_errors import ErrorBody, error_of
from gateway.wire.upstream_json import Malformed, parse_object

MAX_MESSAGE = 600
MAX_WORD = 64
"""Characters kept of somebody else's error message, and of its type, code and parameter."""

REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "x-ds-trace-id",
    "mistral-correlation-id",
    "x-generation-id",
)
"""OpenAI, Groq, Together, Fireworks and vLLM; Anthropic; DeepSeek; Mistral; OpenRouter."""

_TOO_LONG = re.compile(
    r"maximum (context|model|sequence) len|context (length|window)|prompt is too long"
    r"|too many (input )?tokens|exceeds? the available context|inputs. tokens \+ .max_new_tokens",
    re.IGNORECASE,
)
"""How servers that have no code for it say that a prompt is too long: vLLM, SGLang, llama-server,
Together, TGI."""

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def rejection(
    upstream: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[str, ...] = (),
    *,
    now: float,
) -> TandemError:
    """The error for an answer that is no answer; `now` is wall-clock seconds.

    `status` 200 is allowed: then the body should have been a stream, and is most likely an error.
    """
    try:
        error = error_of(parse_object(body))
    except Malformed:
        error = None
    if status == 200 and error is None:
        return UpstreamBroken(f"Upstream {upstream!r} answered a stream with a document.")
    if status == 200 and error is not None:
        return reported(upstream, error, secrets)
    return of_status(
        upstream,
        status,
        error or ErrorBody(message="no message"),
        secrets,
        retry_after=rate_limits.read(headers.items(), now=now).wait_s,
        request_id=_request_id(headers),
    )


def reported(upstream: str, error: ErrorBody, secrets: tuple[str, ...] = ()) -> TandemError:
    """The error for one that came inside a stream or under 200: its own status, else a failure."""
    return of_status(upstream, error.status or 500, error, secrets)


def of_status(
    upstream: str,
    status: int,
    error: ErrorBody,
    secrets: tuple[str, ...] = (),
    *,
    retry_after: float | None = None,
    request_id: str = "",
) -> TandemError:
    """One status, one class. The table is in backends/design.md."""
    at = f"Upstream {upstream!r}"
    asked = f" Its request id: {scrub(request_id, secrets)}." if request_id else ""
    if status in (401, 403):
        # Our credential, not the client's; providers quote parts of a wrong key, so no quoting.
        why = f"{at} refuses our credential ({status}).{asked}"
        return UpstreamError(why, code="upstream_auth")
    if status == 402:
        return UpstreamError(f"{at}: our account there is out of credit.", code="upstream_credit")
    if status in (429, 498, 529):  # 498: Groq's flex tier is full
        return UpstreamOverloaded(f"{at} is overloaded ({status}).", retry_after=retry_after)
    if status in (408, 504):
        return UpstreamTimeout(f"{at} timed out by itself ({status}).")
    if 300 <= status < 400:
        return UpstreamBroken(
            f"{at} answered with a redirect ({status}), which is never followed.",
            code="upstream_redirect",
        )
    if 400 <= status < 500:
        said = _kept(error.message, secrets, MAX_MESSAGE)
        return UpstreamRejected(
            f"{at} rejected the request: {said}",
            status=status,
            type=_kept(error.type or "invalid_request_error", secrets, MAX_WORD),
            param=_kept(error.param, secrets, MAX_WORD) if error.param else None,
            code=_code(status, error, secrets),
        )
    if status >= 500:
        # No words of its own: a 5xx may hold a traceback, with the prompt in it, and helps nobody
        # outside. Its code may say which failure it was.
        what = f"{status}, {error.code}" if _CODE.fullmatch(error.code or "") else f"{status}"
        what = scrub(what, secrets)
        return UpstreamFailed(f"{at} failed ({what}).{asked}", retry_after=retry_after)
    return UpstreamBroken(f"{at} answered with status {status}.")


def _code(status: int, error: ErrorBody, secrets: tuple[str, ...]) -> str | None:
    """The upstream's own, but OpenAI's where a prompt is too long."""
    if status in (400, 413, 422) and _TOO_LONG.search(error.message):
        return "context_length_exceeded"
    return _kept(error.code, secrets, MAX_WORD) if error.code else None


def _request_id(headers: Mapping[str, str]) -> str:
    """What the provider's support asks for, in whichever header it is."""
    found = (headers.get(name, "") for name in REQUEST_ID_HEADERS)
    return next((value for value in found if _ID.fullmatch(value)), "")


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without the secrets that somebody echoed into it."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


def _kept(text: str, secrets: tuple[str, ...], limit: int) -> str:
    # Scrubbed before it is cut: half a key is no longer found, and still half a key.
    text = scrub(text, secrets)
    return text if len(text) <= limit else text[:limit] + "…"
