"""Every failure a client can see, as one tree.

    TandemError
    ├── RequestError              400  the client must change the request
    │   ├── InvalidRequest        400  malformed or out of range; names the parameter
    │   ├── Unsupported           400  no candidate can honour a parameter
    │   ├── ContextExceeded       400  context_length_exceeded
    │   ├── AuthenticationFailed  401
    │   ├── Forbidden             403  the key, Host or Origin may not
    │   ├── NotFound              404  unknown model, path or record
    │   ├── RequestTimeout        408  the client took too long to send it
    │   ├── MethodNotAllowed      405
    │   ├── BodyTooLarge          413
    │   ├── HeadersTooLarge       431
    │   ├── WrongMediaType        415
    │   └── Superseded            409  a newer request of the same editor session came
    ├── Overloaded                429  queue or rate limit; carries Retry-After
    ├── Unavailable               503  nothing that may serve this request can
    │   ├── LocalUnavailable      503  nothing inside the request's zone can
    │   ├── Draining              503  the gateway is shutting down; Retry-After
    │   └── ModelLoading          503  a cold local model was not loaded in time; Retry-After
    ├── Internal                  500  our own fault
    └── UpstreamError             502  an upstream failed; the next candidate may be tried
        ├── UpstreamUnreachable   502  refused, reset before a byte, DNS
        │   └── UpstreamUntrusted 502  TLS failed: no handshake, or a certificate nobody vouches for
        ├── UpstreamTimeout       504
        ├── UpstreamRejected           its own 4xx, mapped; not retried
        │   └── PromptRefused     422  it ended the local engine twice; others may be asked
        ├── UpstreamOverloaded    429  its 429 or 529
        ├── UpstreamFailed        502  its 5xx
        ├── UpstreamBroken        502  malformed, cut, or an error inside the stream
        └── EngineFailed          503  the local engine's worker died or refused to load

Backends translate what they meet into this tree in one place each; dialects render it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class TandemError(Exception):
    """Base of the tree.

    `message` is a sentence for people and never holds a prompt, key or header value.
    `retryable` says whether another candidate may be tried; `source` says who spoke. `details` are
    further fields of the error's body.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retryable: bool = False
    source: ClassVar[str] = "gateway"
    outcome: str = "internal"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.details = dict(details or {})


class RequestError(TandemError):
    status = 400
    type = "invalid_request_error"
    outcome = "client_error"


class InvalidRequest(RequestError):
    code = "invalid_value"


class Unsupported(RequestError):
    code = "unsupported_parameter"


class ContextExceeded(RequestError):
    code = "context_length_exceeded"


class AuthenticationFailed(RequestError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"
    outcome = "timeout"


class BodyTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class HeadersTooLarge(RequestError):
    status = 431
    code = "headers_too_large"


class WrongMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class Superseded(RequestError):
    status = 409
    code = "superseded"
    outcome = "cancelled"


class Overloaded(TandemError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True
    outcome = "shed"


class Unavailable(TandemError):
    status = 503
    code = "unavailable"
    outcome = "upstream_error"


class ModelLoading(Unavailable):
    """A local model that is not in memory yet. No failure of its upstream's."""

    code = "model_loading"
    retryable = True
    outcome = "shed"


class Draining(Unavailable):
    """The gateway is leaving: refused at the door (`shed`), or cut at the end of the grace."""

    code = "draining"
    outcome = "shed"

    def __init__(self, *, cut: bool = False) -> None:
        message = "The gateway is shutting down."
        super().__init__(message, retry_after=1, headers={"connection": "close"})
        if cut:
            self.outcome = "truncated"


class LocalUnavailable(Unavailable):
    code = "local_unavailable"
    outcome = "policy_blocked"


class Internal(TandemError):
    code = "internal_error"


class UpstreamError(TandemError):
    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable = True
    source = "upstream"
    outcome = "upstream_error"
    kind: ClassVar[str] = "protocol"
    """The `class` label of tandem_upstream_requests_total."""


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    kind = "connect"


class UpstreamUntrusted(UpstreamUnreachable):
    """A class of its own, because somebody should look: verification is never turned off."""

    code = "upstream_tls"
    kind = "tls"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    outcome = "timeout"
    kind = "timeout"


class UpstreamRejected(UpstreamError):
    """The upstream's own 4xx: the client's request is at fault, or our credential is."""

    retryable = False
    outcome = "client_error"
    kind = "4xx"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code or "upstream_rejected")
        self.status = status
        self.type = type


class PromptRefused(UpstreamRejected):
    """A prompt that was there when the local engine died, more than once.

    Not a status that clients ask again after; but the next candidate may be tried.
    """

    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message, status=422, param="prompt", code="prompt_refused")


class UpstreamOverloaded(UpstreamError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    outcome = "shed"
    kind = "429"


class UpstreamFailed(UpstreamError):
    """The upstream answered 5xx."""

    kind = "5xx"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"
    outcome = "truncated"
    kind = "reset"


class EngineFailed(UpstreamError):
    status = 503
    code = "engine_failed"
    kind = "reset"
