"""Why an upstream could not be asked: transport errors as ours, in our own words.

Never an exception's text, which may quote a header.
"""

from __future__ import annotations

import socket
import ssl

import httpx

from gateway.core.errors import (
    TandemError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)


def unreachable(upstream: str, error: httpx.TransportError, *, connect_s: float) -> TandemError:
    """The error for a request that got no answer; `connect_s` is what a connection may take."""
    at = f"Upstream {upstream!r}"
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return UpstreamTimeout(f"{at}: no connection within {connect_s:g} s.")
        case httpx.TimeoutException():
            return UpstreamTimeout(f"{at} took too long to take the request.")
        case httpx.ConnectError() if _tls_failed(error):
            return UpstreamUntrusted(f"{at}: the TLS handshake failed.")
        case httpx.ConnectError():
            return UpstreamUnreachable(f"{at}: {_reason(error)}.")
        case httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
            return UpstreamUnreachable(f"{at} closed the connection before it answered.")
        case httpx.RemoteProtocolError() if closed_unanswered(error):
            return UpstreamUnreachable(f"{at} closed the connection before it answered.")
        case httpx.RemoteProtocolError():
            return UpstreamBroken(f"{at} does not speak HTTP as it should.")
        case _:
            return UpstreamUnreachable(f"{at} cannot be reached ({type(error).__name__}).")


def closed_unanswered(error: httpx.TransportError) -> bool:
    """Whether the connection ended before a byte of an answer had come."""
    if isinstance(error, httpx.RemoteProtocolError):
        return str(error).startswith("Server disconnected")
    return isinstance(error, httpx.ReadError | httpx.WriteError | httpx.CloseError)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 8:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _tls_failed(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _reason(error: BaseException) -> str:
    causes = _causes(error)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its name cannot be resolved"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "connection refused"
    return "no connection"
