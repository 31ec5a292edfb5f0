"""What keeps web pages out of a gateway that listens on loopback without keys (DESIGN 2.9).

Any page in the operator's browser can send requests to 127.0.0.1. Three walls, each against one
way in: the Host header names us (a page cannot set it, so a rebound DNS name shows), the Origin is
our own (a page cannot hide it on a POST), and a POST is declared JSON (a page cannot send that to
another origin without asking first, and we never say yes).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.core.errors import Forbidden, WrongMediaType
from gateway.limits.keys import is_loopback

BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOrigin:
    """The walls. `allowed_hosts` and `allowed_origins` are the operator's exceptions.

    A host is allowed as `name` (any port) or `name:port`; an origin as `scheme://name[:port]`; both
    in lower case.
    """

    allowed_hosts: Collection[str] = ()
    allowed_origins: Collection[str] = ()

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Pass, or raise Forbidden (Host, Origin) or WrongMediaType. Headers in lower case."""
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            raise Forbidden(
                "This gateway has no keys and answers only as localhost. To reach it by another"
                " name, add the name to server.allowed_hosts, or set up keys.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_own_origin(origin.lower(), host):
            raise Forbidden(
                "This gateway has no keys and does not answer other web pages. To allow this one,"
                " add its origin to server.allowed_origins, or set up keys.",
                code="origin_not_allowed",
            )
        if method not in BODILESS and not _is_json(headers.get("content-type", "")):
            raise WrongMediaType(
                "The request body must be declared as JSON. Send the header"
                " `Content-Type: application/json`; curl takes -H 'Content-Type: application/json'."
            )

    def _is_ours(self, host: str) -> bool:
        # The port is not compared: no page can choose it, and tunnels change it.
        name, _, port = host.rpartition(":")
        if not name or (port and not port.isdecimal()):
            name = host
        return is_loopback(name) or name in self.allowed_hosts or host in self.allowed_hosts

    def _is_own_origin(self, origin: str, host: str) -> bool:
        """Same origin: the page came from where it now speaks to, which is us."""
        return origin == f"http://{host}" or origin in self.allowed_origins


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
