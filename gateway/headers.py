"""Headers of proxied requests: theirs, bounded and by name; ours, with what was done and why."""

from __future__ import annotations

import os
from collections.abc import Container
from functools import lru_cache
from itertools import chain

from gateway import speculation
from gateway.asgi import Headers, RawHeaders, Scope
from gateway.core.errors import BodyTooLarge, InvalidRequest, TandemError
from gateway.core.exchange import Reply
from gateway.core.routing import Tier

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
ONCE = frozenset({"authorization", "content-encoding", "content-type", "origin", "x-api-key"})
"""Headers that say one thing, as all do that begin with `x-tandem-`."""


def new_id() -> str:
    return "req_" + os.urandom(12).hex()


def headers_of(scope: Scope, once: Container[str] = ()) -> dict[str, str]:
    """Request headers by lower-case name; a repeated one is a list with commas (RFC 9110, 5.2).

    Raises BodyTooLarge: httptools itself accepts megabytes of headers (operations.md 0.5). Raises
    InvalidRequest where one of ONCE, of ours or of `once` says different things: two zones are no
    wish that anybody could guess, and a rule would see only one of two values.
    """
    raw = scope["headers"]
    if len(raw) > MAX_HEADERS or sum(map(len, chain.from_iterable(raw))) > MAX_HEADER_BYTES:
        raise BodyTooLarge("The request's headers are too large.", code="headers_too_large")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    return headers if len(headers) == len(raw) else _joined(raw, once)


def _joined(raw: RawHeaders, once: Container[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for key, said in raw:
        name, value = key.decode("latin-1"), said.decode("latin-1")
        before = headers.setdefault(name, value)
        if value == before:
            continue
        if name in ONCE or name in once or name.startswith("x-tandem-"):
            raise InvalidRequest(
                f"The header {name[:64]} is there twice, and not the same.",
                param=name[:64],
                code="repeated_header",
            )
        headers[name] = f"{before}, {value}"
    return headers


def headers_for(reply: Reply) -> RawHeaders:
    """The plan, as headers: known before the first byte."""
    record = reply.record
    headers = [
        *_plan_headers(
            record.upstream, record.tier, record.reason, record.rule, record.cache, record.stream
        )
    ]
    if record.score is not None:
        headers.append((b"x-tandem-score", b"%.4f" % record.score))
    if record.ignored:
        headers.append((b"x-tandem-ignored", ",".join(record.ignored)[:1024].encode("latin-1")))
    if record.strategy and (record.stream or (record.approximate and not record.speculation)):
        headers.append((b"x-tandem-spec", record.strategy.encode("latin-1")))
    return headers


@lru_cache(maxsize=1024)  # the names are the configuration's: few, and the same each time
def _plan_headers(
    upstream: str, tier: Tier, reason: str, rule: str | None, cache: str, stream: bool
) -> tuple[tuple[bytes, bytes], ...]:
    headers = {
        "x-tandem-route": upstream,
        "x-tandem-tier": tier.value,
        "x-tandem-reason": f"{reason}:{rule}" if rule else reason,
        "x-tandem-cache": cache,
    }
    if stream:
        headers["cache-control"] = "no-cache"
        headers["x-accel-buffering"] = "no"
    return tuple(encoded(headers))


def encoded(headers: Headers) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def outcome_headers(reply: Reply) -> RawHeaders:
    """What it came to, as headers: known once the whole answer is there."""
    record = reply.record
    headers = []
    if record.cost_known and record.cost_usd is not None:
        cost = (b"%.8f" % record.cost_usd).rstrip(b"0").rstrip(b".")
        headers.append((b"x-tandem-cost-usd", cost))
    if record.speculation is not None:
        headers.append((b"x-tandem-spec", speculation.header(record.speculation).encode("latin-1")))
    return headers


def error_headers(error: TandemError) -> dict[str, str]:
    headers = {"x-tandem-error-source": error.source, **error.headers}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    elif error.status >= 500 or error.status == 429:
        # Our own fallbacks are spent; an SDK's two retries on top would multiply attempts.
        headers["x-should-retry"] = "false"
    return headers
