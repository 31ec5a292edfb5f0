"""Metrics come from records only, stay few, and stay readable to Prometheus."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.rate_limits import Limit, RateLimits
from gateway.core.chat import Usage
from gateway.core.exchange import Attempt, ExchangeRecord, RecordDraft
from gateway.core.routing import Tier
from gateway.metrics import Metrics
from gateway.record_series import OUTCOMES
from gateway.vitals import DependencyVitals, EngineVitals, Vitals
from tests.fakes.clock import FakeClock

UPSTREAMS = ("small", "big", "pair")


def record(**changes: object) -> ExchangeRecord:
    """One ordinary streamed answer of `small`, asked for as `auto`."""
    draft = RecordDraft(
        id="req-1",
        endpoint="chat",
        model="auto",
        stream=True,
        tenant="default",
        key_id="",
        zone="public",
        upstream="small",
        upstream_model="small.gguf",
        tier=Tier.LOCAL,
        reason="static",
        cache="miss",
        attempts=(Attempt(upstream="small", result="ok", seconds=0.4),),
        usage=Usage(prompt_tokens=10, completion_tokens=20, cached_tokens=4),
        outcome="ok",
        decide_s=0.0002,
        ttft_s=0.05,
        duration_s=0.5,
        inter_token_s=0.02,
        cost_usd=0.001,
        cost_known=True,
        energy_j=3.0,
    )
    return draft.freeze()._replace(**changes)


def metrics(clock: FakeClock | None = None) -> Metrics:
    vitals = Vitals(
        in_flight={"small": 2, "stranger": 9},
        upstream_up={"small": True, "big": False},
        engines={"small": EngineVitals(up=True, restarts={"crash": 3}, rss_bytes=123)},
        dependencies={"redis": DependencyVitals(up=False, errors=5)},
        cache_entries=7,
        cache_bytes=700,
    )
    return Metrics(
        models=("auto", "local"),
        upstreams=UPSTREAMS,
        vitals=lambda: vitals,
        clock=clock or FakeClock(),
    )


def samples(subject: Metrics) -> dict[str, float]:
    """Every sample of a render as `name{label=value,...}`."""
    body, _ = subject.render()
    return {
        sample.name + "{" + ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items())) + "}": (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_one_record_counts_everywhere_once() -> None:
    """A finished request shows in its counters and histograms, each exactly once."""
    subject = metrics()
    subject.observe(record())
    found = samples(subject)
    assert (
        found["tandem_requests_total{endpoint=chat,model=auto,outcome=ok,stream=true,tier=local}"]
        == 1
    )
    assert found["tandem_request_duration_seconds_count{model=auto,tier=local}"] == 1
    assert found["tandem_time_to_first_token_seconds_sum{model=auto,tier=local}"] == 0.05
    assert found["tandem_time_per_output_token_seconds_sum{model=auto,tier=local}"] == 0.02
    assert found["tandem_upstream_requests_total{class=2xx,upstream=small}"] == 1
    assert found["tandem_tokens_total{model=auto,tier=local,type=input}"] == 10
    assert found["tandem_tokens_total{model=auto,tier=local,type=cached_input}"] == 4
    assert found["tandem_cost_usd_total{model=auto,tier=local}"] == 0.001
    assert found["tandem_cache_lookups_total{kind=exact,result=miss}"] == 1
    assert found["tandem_route_decisions_total{reason=static,tier=local}"] == 1
    assert found["tandem_energy_joules_total{source=estimated}"] == 3


def test_a_fallback_counts_the_attempt_that_was_given_up() -> None:
    """Of two attempts, the first is a fallback with its error's class; the second is not."""
    subject = metrics()
    tries = (
        Attempt(upstream="big", result="timeout", seconds=1.0),
        Attempt(upstream="small", result="ok", seconds=0.1),
    )
    subject.observe(record(attempts=tries, reason="fallback"))
    found = samples(subject)
    assert found["tandem_fallbacks_total{class=timeout,upstream=big}"] == 1
    assert not any(k.startswith("tandem_fallbacks_total") and "small" in k for k in found)
    assert found["tandem_upstream_requests_total{class=timeout,upstream=big}"] == 1


def test_what_is_left_of_rate_limits() -> None:
    """The scarcest limit of each kind is shown; what nobody says, or has reset, is not there."""
    said = RateLimits(
        limits=(
            Limit(kind="tokens", limit=100, remaining=25, reset_s=10),
            Limit(kind="requests", remaining=4),
        ),
        seen=1000.0,
    )
    for now, shown in ((1005.0, {"tokens": 0.25}), (1011.0, {})):
        subject = Metrics(
            models=(),
            upstreams=("big",),
            vitals=lambda: Vitals(rate_limits={"big": said, "stranger": said}),
            wall=lambda now=now: now,  # type: ignore[misc]
        )
        name = "tandem_upstream_ratelimit_remaining_ratio"
        found = {key: value for key, value in samples(subject).items() if key.startswith(name)}
        assert found == {
            f"{name}{{kind={kind},upstream=big}}": ratio for kind, ratio in shown.items()
        }


def test_an_unknown_price_is_counted_and_not_free() -> None:
    """An answer without a configured price counts as unknown cost, not as zero cost."""
    subject = metrics()
    subject.observe(record(cost_known=False, cost_usd=None, upstream="big", tier=Tier.CLOUD))
    found = samples(subject)
    assert found["tandem_cost_unknown_total{upstream=big}"] == 1
    assert not any(key.startswith("tandem_cost_usd_total") for key in found)


def test_speculation_and_savings() -> None:
    """Drafts, their acceptance, and what a cache hit saved have their own counters."""
    subject = metrics()
    spec = {"strategy": "companion", "drafted": 30, "accepted": 21, "rounds": 10, "gain": 1.2}
    subject.observe(record(upstream="pair", tier=Tier.SPECULATIVE, speculation=spec))
    subject.observe(record(tier=Tier.CACHE, cache="hit", avoided_usd=0.25, attempts=()))
    found = samples(subject)
    assert found["tandem_spec_drafts_total{pair=pair}"] == 10
    assert found["tandem_spec_draft_tokens_total{pair=pair}"] == 30
    assert found["tandem_spec_accepted_tokens_total{pair=pair}"] == 21
    assert found["tandem_tokens_total{model=auto,tier=speculative,type=draft}"] == 30
    assert found["tandem_cost_avoided_usd_total{model=auto}"] == 0.25


def test_vitals_are_read_at_the_scrape() -> None:
    """Gauges show the parts' state for configured names only."""
    found = samples(metrics())
    assert found["tandem_inflight{upstream=small}"] == 2
    assert not any("stranger" in key for key in found)
    assert found["tandem_upstream_up{upstream=big}"] == 0
    assert found["tandem_engine_restarts_total{cause=crash,upstream=small}"] == 3
    assert found["tandem_engine_quarantined{upstream=small}"] == 0
    assert found["tandem_dependency_up{dep=redis}"] == 0
    assert found["tandem_dependency_errors_total{dep=redis}"] == 5
    assert found["tandem_cache_bytes{}"] == 700


def test_hostile_numbers_never_raise() -> None:
    """Negative, infinite and NaN facts from an upstream are left out, and observe goes on."""
    subject = metrics()
    subject.observe(
        record(
            usage=Usage(prompt_tokens=-5, completion_tokens=2),
            cost_usd=float("nan"),
            energy_j=float("inf"),
            duration_s=-1.0,
            ttft_s=float("nan"),
            speculation={"drafted": None, "accepted": "many", "rounds": -1},
        )
    )
    found = samples(subject)
    assert found["tandem_tokens_total{model=auto,tier=local,type=output}"] == 2
    assert not any("type=input" in key for key in found)
    assert not any(key.startswith("tandem_cost_usd") for key in found)


def fuzzed(rng: random.Random) -> ExchangeRecord:
    def word() -> str:
        return "".join(rng.choice('abcXYZ/"\\\n{}é') for _ in range(rng.randint(0, 40)))

    known = [*UPSTREAMS, "auto", "local", *(f"model-{i}" for i in range(40))]
    return record(
        id=word(),
        endpoint=rng.choice(["chat", "completion", "infill", word()]),
        model=rng.choice([*known, word(), word()]),
        stream=rng.random() < 0.5,
        tenant=word(),
        key_id=word(),
        upstream=rng.choice([*known, word()]),
        tier=rng.choice(list(Tier)),
        reason=rng.choice(["pin", "rule", word()]),
        rule=word(),
        cache=rng.choice(["hit", "miss", word()]),
        outcome=rng.choice([*sorted(OUTCOMES), word()]),
        error=word(),
        cost_known=rng.random() < 0.5,
        attempts=tuple(
            Attempt(
                upstream=rng.choice([*known, word()]),
                result=rng.choice(["ok", "5xx", "429", "timeout", "connect", word()]),
                seconds=rng.random(),
            )
            for _ in range(rng.randint(0, 3))
        ),
        speculation={"drafted": 4, "accepted": 2, "rounds": 1} if rng.random() < 0.3 else None,
    )


def test_no_request_can_make_the_scrape_grow() -> None:
    """10,000 requests with random names stay under 3,000 lines, and none is lost in the count."""
    subject = Metrics(
        models=["auto", "local", *(f"model-{i}" for i in range(40))],
        upstreams=[*UPSTREAMS, *(f"model-{i}" for i in range(20))],
    )
    rng = random.Random(7)
    for _ in range(10_000):
        subject.observe(fuzzed(rng))
    body, _ = subject.render()
    assert len(body.splitlines()) < 3000
    found = samples(subject)
    total = sum(v for k, v in found.items() if k.startswith("tandem_requests_total{"))
    timed = sum(
        v for k, v in found.items() if k.startswith("tandem_request_duration_seconds_count{")
    )
    assert total == timed == 10_000


def test_fifty_upstreams_fit_into_a_scrape() -> None:
    """A gateway with 50 upstreams that have all seen everything renders under 3,000 lines."""
    names = [f"upstream-{at}" for at in range(50)]
    vitals = Vitals(in_flight=dict.fromkeys(names, 1), upstream_up=dict.fromkeys(names, True))
    subject = Metrics(models=("auto",), upstreams=names, vitals=lambda: vitals, clock=FakeClock())
    for outcome in OUTCOMES:
        for name in names:
            subject.observe(record(model=name, upstream=name, outcome=outcome))
    body, _ = subject.render()
    assert len(body.splitlines()) < 3000


def test_every_declared_metric_is_rendered() -> None:
    """What is registered appears in a render, before any request came."""
    subject = metrics()
    body, _ = subject.render()
    names = {family.name for family in subject.registry.collect()}
    assert {"tandem_requests", "tandem_energy_joules", "process_cpu_seconds"} <= names
    for name in names:
        assert f"# TYPE {name}".encode() in body


def test_a_render_is_kept_for_a_second() -> None:
    """Scrapes within a second share one render; the next second has the new numbers."""
    clock = FakeClock()
    subject = metrics(clock)
    first, _ = subject.render()
    subject.observe(record())
    assert subject.render()[0] == first
    clock.advance(1.0)
    assert subject.render()[0] != first


def test_openmetrics_is_spoken_when_asked() -> None:
    """A scraper that accepts OpenMetrics gets it; others get the plain text format."""
    subject = metrics()
    body, kind = subject.render("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert subject.render("*/*")[1].startswith("text/plain")


def test_two_gateways_in_one_process_do_not_share() -> None:
    """Each Metrics has a registry of its own."""
    one, other = metrics(), metrics()
    one.observe(record())
    assert not any(key.startswith("tandem_requests_total") for key in samples(other))


def test_the_loop_watcher_samples_and_ends_with_cancellation() -> None:
    """watch_lag records samples while it runs and stops when cancelled."""
    clock = FakeClock()
    subject = metrics(clock)

    async def scene() -> None:
        watcher = asyncio.create_task(subject.watch_lag())
        deadline = asyncio.get_running_loop().time() + 10
        while not samples(subject)["tandem_event_loop_lag_seconds_count{}"]:
            assert asyncio.get_running_loop().time() < deadline
            clock.advance(1.0)
            await asyncio.sleep(0.01)
        watcher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watcher

    asyncio.run(scene())


def test_promtool_finds_nothing_to_say() -> None:
    """`promtool check metrics` accepts our names, types and units."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package `prometheus`)")
    subject = metrics()
    subject.observe(record())
    body, _ = subject.render()
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert b"tandem" not in checked.stdout + checked.stderr
