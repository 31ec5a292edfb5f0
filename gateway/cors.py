"""CORS for the origins that an operator has allowed by name; nobody else hears of it."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any

from gateway.asgi import App, Receive, Scope, Send

MAX_AGE_S = 600
EXPOSED = ", ".join(
    (
        *("x-request-id", "retry-after", "x-should-retry", "openai-processing-ms"),
        *(f"x-tandem-{name}" for name in ("route", "tier", "reason", "cache", "cost-usd", "spec")),
        *("x-tandem-ignored", "x-tandem-error-source"),
    )
)
"""What a page may read of an answer: what the README says of our headers, and what SDKs go by."""


class AllowedOrigins:
    """Wraps an application: answers preflights and marks answers, for listed origins only.

    `*` is not understood on purpose: it would open the gateway to every page.
    """

    def __init__(self, app: App, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin", b"").lower()
        if scope["type"] != "http" or origin not in self._origins:
            await self._app(scope, receive, send)
            return
        marks = [
            (b"access-control-allow-origin", headers[b"origin"]),
            (b"vary", b"origin"),
            (b"access-control-expose-headers", EXPOSED.encode()),
        ]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            asked = headers.get(b"access-control-request-headers", b"")
            marks += [
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", asked),
                (b"access-control-max-age", b"%d" % MAX_AGE_S),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": marks})
            await send({"type": "http.response.body", "body": b""})
            return

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *marks]}
            await send(message)

        await self._app(scope, receive, marked)
