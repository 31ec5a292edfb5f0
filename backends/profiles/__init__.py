"""What we know of each provider of the OpenAI wire: facts in a frozen table, not subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from backends.profiles.base import Continuation, Others, Predicts, Profile, Reasoning, Surface
from backends.profiles.clouds import CLOUDS
from backends.profiles.servers import SERVERS

__all__ = [
    "PROFILES",
    "Continuation",
    "Others",
    "Predicts",
    "Profile",
    "Reasoning",
    "Surface",
    "profile_for",
]

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {profile.name: profile for profile in (*CLOUDS, *SERVERS)}
)


def profile_for(kind: str, base_url: str | None, profile: str | None) -> Profile:
    """The profile named, else the kind's own, else the one whose address it is.

    `kind: openai` at somebody else's address means "speaks OpenAI's wire", hence generic. Raises
    KeyError for a profile that is not in the table.
    """
    if profile is not None:
        return PROFILES[profile]
    if kind != "openai":
        return PROFILES.get(kind, PROFILES["generic"])
    if base_url is None:
        return PROFILES["openai"]
    host = urlsplit(base_url).hostname
    for known in PROFILES.values():
        if known.base_url is not None and urlsplit(known.base_url).hostname == host:
            return known
    return PROFILES["generic"]
