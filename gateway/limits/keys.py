"""Static keys: who a request comes from, by the SHA-256 of the key it carries.

Only digests are kept, so neither a configuration nor a memory dump of this table lets anyone in.
Keys are 256 random bits: there is nothing to guess, and a slow hash would protect nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from gateway.core.errors import AuthenticationFailed
from gateway.core.exchange import Caller

PREFIX = "tdm-"
ENV_KEY = "TANDEM_API_KEY"
MAX_KEY = 512
"""Characters of a presented key that are looked at; ours have 47."""

NOBODY: Final = Caller()


class OpenGateway(ValueError):
    """Binding beyond this machine without keys: refused (DESIGN 2.9)."""


class Keys:
    """The keys of one configuration. Immutable; a reload makes a new one.

    `callers` are by the SHA-256 of their key, in hex. Without any, everyone is the default caller.
    """

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = {
            bytes.fromhex(digest): (bytes.fromhex(digest), caller)
            for digest, caller in callers.items()
        }

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._callers)

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Who sent these headers (lower-case names): a Bearer token, or `x-api-key`.

        Raises AuthenticationFailed if keys are needed and none that we know is there. The time it
        takes does not depend on which keys exist.
        """
        if not self._callers:
            return NOBODY
        presented = [key for key in _presented(headers) if key]
        if not presented:
            raise _failed(
                "You didn't provide an API key. You need to provide your API key in an"
                " Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        for key in presented:
            digest = _digest(key)
            known, caller = self._callers.get(digest, (b"", NOBODY))
            # The lookup goes by a whole hash, so its timing tells nothing about the key; the
            # comparison that decides is flat all the same.
            if hmac.compare_digest(digest, known):
                return caller
        raise _failed("Incorrect API key provided.")


def callers_from(callers: Mapping[str, Caller], env: Mapping[str, str]) -> dict[str, Caller]:
    """The configured callers, and the one key that TANDEM_API_KEY sets, if it does."""
    key = env.get(ENV_KEY, "").strip()
    if not key:
        return dict(callers)
    digest = digest_of(key)
    return {digest: Caller(key_id=digest[:8]), **callers}


def create() -> tuple[str, str]:
    """A new key and the digest to configure. The key is not kept anywhere."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, "sha256:" + digest_of(key)


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return _digest(key).hex()


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def check_bind(host: str, has_keys: bool) -> None:
    """Raises OpenGateway for an address beyond this machine when no key is needed."""
    if has_keys or is_loopback(host):
        return
    raise OpenGateway(
        f"refusing to listen on {host!r} without keys: anyone who reaches it could use every model."
        f" Set {ENV_KEY}, or add `keys:` to the configuration (`tandem keys create`),"
        " or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name but `localhost` is never looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _presented(headers: Mapping[str, str]) -> tuple[str, ...]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer[:MAX_KEY], headers.get("x-api-key", "").strip()[:MAX_KEY]


def _failed(message: str) -> AuthenticationFailed:
    return AuthenticationFailed(message, headers={"www-authenticate": "Bearer"})
