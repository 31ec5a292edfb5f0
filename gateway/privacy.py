"""How far a request's content may travel: every voice may tighten, none may widen (DESIGN 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.errors import InvalidRequest
from gateway.core.exchange import Caller
from gateway.core.routing import Zone

HEADER = "x-tandem-zone"


def zone_of(
    caller: Caller, headers: Mapping[str, str], default: Zone, by_rule: Zone | None
) -> Zone:
    """The tightest zone that the key, the header, the rules or the default ask for.

    Raises InvalidRequest for a header we cannot read: a wish for privacy is never guessed at.
    """
    zones = [caller.zone, default]
    if by_rule is not None:
        zones.append(by_rule)
    wished = headers.get(HEADER)
    if wished is not None:
        zones.append(_named(wished))
    return min(zones)


def _named(text: str) -> Zone:
    for zone in Zone:
        if zone.label == text.strip().lower():
            return zone
    known = ", ".join(zone.label for zone in Zone)
    raise InvalidRequest(f"The header {HEADER} must be one of {known}.", param=HEADER)
