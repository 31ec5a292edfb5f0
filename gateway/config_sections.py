"""The sections of a configuration file as models: which keys there are, their types and defaults.

`upstreams` and `rules` are not here: each backend declares its own options, and rules are compiled
by router_policies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from backends.base import ZoneName
from gateway.config_balance import Balance
from gateway.core import quantity
from gateway.core.routing import Zone
from router_policies.base import Weights
from router_policies.learned.utility import PRESETS

MIB = 1024 * 1024
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _off(value: object) -> object:
    """`false` and `off` mean the same here; YAML 1.1 could not tell them apart."""
    return "off" if value is False else value


def _exact(value: object) -> object:
    return {"memory": 0, "redis": ""} if _off(value) == "off" else value


def _semantic(value: object) -> object:
    if _off(value) != "off":
        raise ValueError("the semantic cache comes with a later release; the only value is off")
    return "off"


def _redis(value: str) -> str:
    if value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("expects redis://…, rediss://… or unix://…, or nothing")
    return value


def _digest(value: str) -> str:
    if not DIGEST.fullmatch(value):
        raise ValueError("a digest is sha256: and 64 hex digits; `tandem keys create` makes one")
    return value


Size = Annotated[int, BeforeValidator(quantity.size)]
"""Bytes."""
Duration = Annotated[float, BeforeValidator(quantity.duration), Field(gt=0)]
"""Seconds."""
Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
LowerNames = Annotated[Names, AfterValidator(lambda names: tuple(n.lower() for n in names))]


class Section(BaseModel):
    """What all sections have in common: frozen, and no key that is not listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Server(Section):
    """Where the gateway listens. `allowed_*` add to what loopback without keys accepts.

    `admin_port` has metrics and admin, on loopback, once `host` is beyond it.
    `drain` is how long those inside may go on once we are told to leave, in seconds.
    `header_timeout` bounds a request's whole head; `body_timeout` and `write_timeout` how long a
    client may send or read nothing at all. `max_connections_per_address` does not bind loopback.
    `deadline` is the whole budget of a request whose alias sets none, in seconds.
    `strict_parameters` refuses what an upstream would ignore, unless a request says otherwise.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    admin_port: int = Field(default=9091, ge=0, le=65535)
    max_body: Size = 8 * MIB
    allowed_hosts: LowerNames = ()
    allowed_origins: LowerNames = ()
    deadline: Duration = 600.0
    drain: Duration = 30.0
    header_timeout: Duration = 10.0
    body_timeout: Duration = 10.0
    write_timeout: Duration = 30.0
    max_connections: int = Field(default=4096, ge=1)
    max_connections_per_address: int = Field(default=256, ge=1)
    strict_parameters: bool = False


class WeightsSection(Section):
    """What a US dollar, a second and a kilojoule cost in quality (a chance, 0 to 1)."""

    price: Annotated[float, Field(ge=0, le=1e6)] = 25.0
    latency: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    energy: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    def weights(self) -> Weights:
        return Weights(price=self.price, latency=self.latency, energy=self.energy)


class Alias(Section):
    """A model name that stands for several upstreams, in the operator's order.

    `min_bits` takes out what is known to have fewer bits a weight. `balance` are the groups of
    candidates that share the load; None: those that are the same in all that matters. With
    `bigger_context` a prompt that an upstream refused as too long is tried where there is more
    room; without, that error is the answer. The rest is for the learned policy: `prefer` names a
    set of weights, `weights` gives them; `cloud_share` keeps a share of requests on upstreams that
    are not local instead; `spend_cap_usd_per_hour` stops those for the hour.
    """

    candidates: Annotated[Names, Field(min_length=1)]
    policy: Annotated[Names, Field(min_length=1)] = ("rules", "static")
    deadline: Duration | None = None
    min_bits: Annotated[float, Field(ge=0, le=64)] | None = None
    balance: Balance = None
    bigger_context: bool = False
    prefer: Literal["balanced", "cheap", "fast", "quality"] | None = None
    weights: WeightsSection | None = None
    cloud_share: Annotated[float, Field(ge=0, le=1)] | None = None
    spend_cap_usd_per_hour: Annotated[float, Field(ge=0, le=1e6)] | None = None

    def idle_keys(self) -> list[str]:
        """What was said to a learned policy that is not there: a cap that would cap nothing."""
        if "learned" in self.policy:
            return []
        said = ("prefer", "weights", "cloud_share", "spend_cap_usd_per_hour")
        return [key for key in said if getattr(self, key) is not None]

    def weights_for(self, name: str) -> Weights:
        """What the alias prefers: its `weights`, else its `prefer`, else what its name says."""
        if self.weights is not None:
            return self.weights.weights()
        return PRESETS.get(self.prefer or name.removeprefix("auto:"), Weights())


class LabelsSection(Section):
    """A log to train from: its file, its bound in MiB, whether it keeps public requests' text."""

    path: Path
    max_mb: Annotated[int, Field(ge=1, le=65536)] = 64
    content: Literal["never", "public"] = "never"


class RouterSection(Section):
    """The learned policy. `artifact` is the folder of one, None for the one that Tandem brings.

    `abilities` is a file that `tandem router probe` wrote. `shadow` is another artifact that scores
    the same requests and decides nothing. Prompts newer than `novelty_limit` are left to the
    alias's next policy. With a `cloud_share`, those up to `unsure` from its cut, in rank, go to a
    cascade first.
    """

    artifact: Path | None = None
    abilities: Path | None = None
    shadow: Path | None = None
    novelty_limit: Annotated[float, Field(ge=0, le=1)] = 0.8
    unsure: Annotated[float, Field(ge=0, le=1)] = 0.1
    labels: LabelsSection | None = None


class Memory(Section):
    """`budget` bounds what local models may take together: weights, cells, computation, worker.

    With one, a model is loaded when it is asked for, unless its entry says preload or pin; None:
    all are loaded at the start. A model that was loaded stays for `min_stay` before another may
    take its place.
    """

    budget: Size | None = None
    min_stay: Annotated[float, BeforeValidator(quantity.duration)] = 5.0


class ExactCache(Section):
    """Whole answers by exact request. `memory` 0 keeps none here; `redis` empty, none there.

    Replicas share answers in Redis only under a common `secret`, which proves that an answer is
    ours.
    """

    memory: Size = 64 * MIB
    redis: Annotated[str, AfterValidator(_redis)] = ""
    secret: str = ""
    ttl: Duration = 3600.0


class CacheSection(Section):
    """Which caches there are. `exact: off` is one without memory and without Redis."""

    exact: Annotated[ExactCache, BeforeValidator(_exact)] = ExactCache()
    semantic: Annotated[Literal["off"], BeforeValidator(_semantic)] = "off"


class Key(Section):
    """A static key. `models` lists the names it may ask for; None: all."""

    digest: Annotated[str, AfterValidator(_digest)]
    tenant: str = Field(default="default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    zone: ZoneName = Zone.PUBLIC
    models: Names | None = None
