"""The `privacy` section: how far a request may travel, and who looks into it before it does."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from backends.base import ZoneName
from gateway.core.flaw import Flaw, Path
from gateway.core.quantity import duration
from gateway.core.registry import suggest
from gateway.core.routing import Zone
from gateway.detect.hook import function_at
from gateway.detect.patterns import KINDS, MAX_SUFFIXES

HOST = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _kinds(value: object) -> object:
    """A list of kinds keeps what is found on this machine."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return {kind: Zone.MACHINE for kind in value if isinstance(kind, str)}
    return value


def _on_this_machine(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("expects http://127.0.0.1:PORT/PATH") from None
    if parts.scheme != "http" or port is None:
        raise ValueError("expects http://127.0.0.1:PORT/PATH")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise ValueError("a hook reads everything, so it must be on this machine (loopback)")
    return url


def _place(value: str) -> str:
    if not PLACE.fullmatch(value):
        raise ValueError("expects module:function")
    function_at(value)
    return value


def _host(values: tuple[str, ...]) -> tuple[str, ...]:
    for each in values:
        if not HOST.fullmatch(each):
            raise ValueError(f"{each!r} is no domain")
    return values


Seconds = Annotated[float, BeforeValidator(duration), Field(gt=0, le=60)]


class Hook(BaseModel):
    """A detector of one's own: an endpoint on this machine, or a Python function."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_on_this_machine)] | None = None
    python: Annotated[str, AfterValidator(_place)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Hook:
        if (self.url is None) == (self.python is None):
            raise ValueError("a hook has either url or python")
        return self


class Privacy(BaseModel):
    """`default` is the widest zone of a request that nothing tightens.

    `detect`: what is looked for in requests, and how far it may travel; as a list, machine for all.
    `hosts` are suffixes of internal names, beside private addresses. `opaque` is the same zone for
    what no detector reads (pictures, sound, files, token ids), where there is a detector. `hook` is
    asked as well. A look that takes longer than `timeout` counts as the worst finding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    default: ZoneName = Zone.PUBLIC
    detect: Annotated[Mapping[str, ZoneName], BeforeValidator(_kinds)] = {}
    hosts: Annotated[tuple[str, ...], Field(max_length=MAX_SUFFIXES), AfterValidator(_host)] = ()
    opaque: ZoneName = Zone.MACHINE
    hook: Hook | None = None
    timeout: Seconds = 2.0

    @property
    def looks(self) -> bool:
        """Whether requests are looked into at all."""
        return bool(self.detect) or self.hook is not None


def unknown_kinds(raw: Any) -> list[Flaw]:
    """Flaws for what `privacy.detect` lists and nobody knows how to find, each at its place."""
    detect = raw.get("detect") if isinstance(raw, Mapping) else None
    path: Path = ("privacy", "detect")
    if isinstance(detect, str):
        listed: list[tuple[object, Path, bool]] = [(detect, path, False)]
    elif isinstance(detect, Mapping):
        listed = [(kind, (*path, kind), True) for kind in detect]
    elif isinstance(detect, list | tuple):
        listed = [(kind, (*path, at), False) for at, kind in enumerate(detect)]
    else:
        return []
    return [
        Flaw(where, f"unknown detector {kind!r}{suggest(str(kind), list(KINDS))}", at_key=at_key)
        for kind, where, at_key in listed
        if kind not in KINDS
    ]
