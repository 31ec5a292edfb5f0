"""An upstream's refusal as one of ours: status, headers and body in, an error of the tree out.

Pure. Whose fault it is decides: the client's goes back to the client with the upstream's words, our
own credential's does not, and what another upstream may do better is retryable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gateway.core.errors import (
    TandemError,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.wire.openai import ErrorBody, Malformed, error_of, parse_object

MAX_RETRY_AFTER_S = 600.0
"""A cooldown is at most ten minutes (operations.md 2.4, row 19)."""

MAX_MESSAGE = 600
MAX_WORD = 64
"""Characters kept of somebody else's error message, and of its type, code and parameter."""

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


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
        retry_after=retry_after(headers, now),
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
) -> TandemError:
    """One status, one class. The table is in backends/design.md."""
    at = f"Upstream {upstream!r}"
    if status in (401, 403):
        # Our credential, not the client's; providers quote parts of a wrong key, so no quoting.
        return UpstreamError(f"{at} refuses our credential ({status}).", code="upstream_auth")
    if status == 402:
        return UpstreamError(f"{at}: our account there is out of credit.", code="upstream_credit")
    if status in (429, 529):
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
            code=_kept(error.code, secrets, MAX_WORD) if error.code else None,
        )
    if status >= 500:
        # No words of its own: a 5xx may hold a traceback, with the prompt in it, and helps nobody
        # outside. Its code may say which failure it was.
        what = f"{status}, {error.code}" if _CODE.fullmatch(error.code or "") else f"{status}"
        return UpstreamFailed(f"{at} failed ({scrub(what, secrets)}).", retry_after=retry_after)
    return UpstreamBroken(f"{at} answered with status {status}.")


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without the secrets that somebody echoed into it."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


def _kept(text: str, secrets: tuple[str, ...], limit: int) -> str:
    # Scrubbed before it is cut: half a key is no longer found, and still half a key.
    text = scrub(text, secrets)
    return text if len(text) <= limit else text[:limit] + "…"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until it is worth asking again, in whichever spelling, at most ten minutes.

    Without a plain header, the reset of the limit that is used up: Groq and OpenAI write it as a
    duration ("2m59.56s") beside `remaining`.
    """
    seconds = _plain(headers, now)
    if seconds is None:
        resets = [
            duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
            for kind in ("requests", "tokens")
            if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0"
        ]
        seconds = max((reset for reset in resets if reset is not None), default=None)
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _plain(headers: Mapping[str, str], now: float) -> float | None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers.get(name, ""))
        if milliseconds is not None:
            return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is not None or not value:
        return seconds
    try:
        return parsedate_to_datetime(value).timestamp() - now
    except ValueError:
        return None


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else None


def duration(text: str) -> float | None:
    """Seconds in "7.66s", "2m59.56s", "1h", "120ms" or a bare number; None if it is neither."""
    text = text.strip()[:32]
    if (plain := _number(text)) is not None:
        return plain
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)
