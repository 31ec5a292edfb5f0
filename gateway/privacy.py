"""How far a request's content may travel: every voice may tighten, none may widen (DESIGN 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.core.chat import ChatRequest
from gateway.core.errors import InvalidRequest
from gateway.core.exchange import Caller
from gateway.core.routing import Zone

HEADER = "x-tandem-zone"

OPAQUE = "opaque"
"""Something that is no text: a picture, a sound, a file, token ids."""
HOOK = "hook"
"""The operator's own detector said so."""
FAILED = "failed"
"""Nobody can say: the detector failed, or took too long."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a detector found, by kind and never by its text, and how far that may travel."""

    zone: Zone = Zone.PUBLIC
    kinds: tuple[str, ...] = ()


NOTHING = Findings()


class Detector(Protocol):
    """Looks at what a request would show to a model."""

    async def look(self, request: ChatRequest, *, keep: bool = True) -> Findings:
        """What it gives away. Never raises: not to know is to find the worst.

        `keep=False` is for explanations: nothing is remembered of the look.
        """

    async def aclose(self) -> None:
        """Give threads and connections back."""


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


def voices(
    caller: Caller,
    headers: Mapping[str, str],
    default: Zone,
    by_rule: Zone | None,
    found: Findings,
    before: Zone | None = None,
) -> tuple[tuple[str, Zone], ...]:
    """Who asked for which zone, of those that `zone_of` and the detector heard; for people."""
    said = [("key", caller.zone), ("privacy.default", default)]
    if by_rule is not None:
        said.append(("rules", by_rule))
    if before is not None:
        said.append(("an earlier turn of this conversation", before))
    if HEADER in headers:
        said.append(("header", _named(headers[HEADER])))
    if found.kinds:
        said.append((f"detector: {', '.join(found.kinds)}", found.zone))
    return tuple(said)


def _named(text: str) -> Zone:
    for zone in Zone:
        if zone.label == text.strip().lower():
            return zone
    known = ", ".join(zone.label for zone in Zone)
    raise InvalidRequest(f"The header {HEADER} must be one of {known}.", param=HEADER)
