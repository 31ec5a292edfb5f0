"""How our parts are at a scrape, as plain values: what the gauges are made of (gauges.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.rate_limits import RateLimits
from backends.speculative.rung import Rung
from gateway.resilience.vitals import UpstreamVitals


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVitals:
    """One local engine's worker, now. `rss_bytes` is None where it is not known."""

    up: bool
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By cause: a closed list (client.py)."""
    quarantined: bool = False
    rss_bytes: int | None = None
    load_s: float | None = None
    stats: Mapping[str, float] = field(default_factory=dict)
    """The worker's own counters (slots.Stats) and gauges, at most some seconds old."""
    exactness: str = ""
    """bitwise or tie-tolerant, as its sessions promise it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentVitals:
    """A local model and the memory it takes while it is there, in bytes. `unloads` by reason."""

    size: int
    in_memory: bool
    loads: int = 0
    load_s: float = 0.0
    unloads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyVitals:
    """Something we use but can live without."""

    up: bool
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The parts' state at a scrape. Upstreams and engines go by their configured names."""

    in_flight: Mapping[str, int] = field(default_factory=dict)
    upstream_up: Mapping[str, bool] = field(default_factory=dict)
    upstreams: Mapping[str, UpstreamVitals] = field(default_factory=dict)
    rate_limits: Mapping[str, RateLimits] = field(default_factory=dict)
    rungs: Mapping[str, Rung] = field(default_factory=dict)
    engines: Mapping[str, EngineVitals] = field(default_factory=dict)
    residents: Mapping[str, ResidentVitals] = field(default_factory=dict)
    memory_budget: int | None = None
    dependencies: Mapping[str, DependencyVitals] = field(default_factory=dict)
    cache_entries: int = 0
    cache_bytes: int = 0
    log_dropped: int = 0
