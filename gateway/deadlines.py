"""How long a client will wait, as its headers say it: nobody computes for one that has gone."""

from __future__ import annotations

import math
from collections.abc import Mapping

TOTAL = "x-request-timeout"
READ = "x-stainless-read-timeout"
"""OpenAI's SDKs say their read timeout: of a whole answer all the time it has, of a stream only the
longest pause."""


def client_patience(headers: Mapping[str, str], *, stream: bool) -> float | None:
    """Seconds from arrival, None if the client does not say. What is no number is not obeyed."""
    if TOTAL not in headers and READ not in headers:
        return None
    names = (TOTAL,) if stream else (TOTAL, READ)
    said = (_seconds(headers[name]) for name in names if name in headers)
    return min((seconds for seconds in said if seconds is not None), default=None)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
