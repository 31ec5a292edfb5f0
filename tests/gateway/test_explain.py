"""Explanations: the same decision as live, phase by phase, and nothing is touched by asking."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.chat import Usage
from gateway.core.exchange import Caller, RecordDraft
from gateway.core.routing import Price, Tier, Zone
from gateway.decisions import Decisions
from gateway.explain import explain
from gateway.ledger import counterfactual
from gateway.metrics import Metrics
from gateway.token_pace import TokenPaces
from router_policies.base import Mode, Rule, Settings
from router_policies.conditions import ALWAYS
from router_policies.rules import RulesPolicy
from tests.fakes.faults import ok
from tests.fakes.fronting import Front, fronting, run
from tests.fakes.harness import Harness, exchange
from tests.fakes.harness import run as run_story
from tests.fakes.scripted import ScriptedBackend, saying, upstream
from tests.fakes.upstream import FakeUpstream

EXPLAIN = "/v1/route/explain"
PRIVATE = [{"role": "user", "content": "ask jane.doe@acme.io"}]


def body(model: str = "auto", **changes: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **changes}


def state(front: Front) -> list[Any]:
    """What a request that is served leaves behind somewhere."""
    gateway = front.gateway
    detector = gateway.pipeline.planner.rulebook.detector
    metrics, _ = gateway.metrics.render()
    counted = [
        line
        for line in metrics.decode().splitlines()
        if line.startswith("tandem_")
        and not line.startswith(("tandem_event_loop_lag", "tandem_build"))
    ]
    return [
        counted,
        gateway.fleet.vitals(),
        gateway.fleet.in_flight(),
        gateway.admission.inside,
        len(gateway.records._records),
        gateway.decisions.latest(1000),
        len(detector.verdicts),  # type: ignore[union-attr]
        gateway.memory and len(gateway.memory),
    ]


def test_a_dry_run_touches_nothing() -> None:
    """Asked a hundred times, of any kind of request, no counter, breaker, record, cache, verdict or
    upstream has changed; and it says what then happens."""

    async def story() -> None:
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(FakeUpstream(ok))
            cloud = await stack.enter_async_context(FakeUpstream(ok))
            front = await stack.enter_async_context(
                fronting(
                    {"cloud": cloud.base_url, "ours": ours.base_url},
                    zones={"ours": "machine"},
                    privacy={"detect": ["email"]},
                    cache=True,
                )
            )
            await front.ask(temperature=0)
            await front.at_rest()
            before, asked = state(front), (cloud.connections, ours.connections)
            stay = {"x-tandem-zone": "machine"}
            for _ in range(25):
                for sent, headers in (
                    (body(), {}),
                    (body(temperature=0), {}),
                    (body(messages=PRIVATE), {}),
                    (body("cloud"), stay),
                ):
                    answer = await front.http.post(EXPLAIN, json=sent, headers=headers)
                    assert answer.status_code == 200
            assert (cloud.connections, ours.connections) == asked
            front.gateway.metrics._rendered.clear()
            assert state(front) == before

            told = (await front.http.post(EXPLAIN, json=body(messages=PRIVATE))).json()
            assert (told["zone"], told["found"]) == ("machine", ["email"])
            assert told["decision"]["order"] == ["ours"]
            live = await front.ask(messages=PRIVATE)
            assert live.headers["x-tandem-route"] == "ours"
            assert (await front.record(live))["found"] == ["email"]

    run(story())


def test_what_a_client_would_be_refused_is_explained() -> None:
    """A request that nothing may serve comes with its error and what removed each candidate; one
    that no plan can begin with is that error."""

    async def story() -> None:
        async with (
            FakeUpstream(ok) as cloud,
            fronting({"cloud": cloud.base_url}) as front,
        ):
            stay = {"x-tandem-zone": "machine"}
            told = (await front.http.post(EXPLAIN, json=body(), headers=stay)).json()
            assert told["decision"] is None
            assert told["error"]["code"] == "local_unavailable"
            (only,) = told["candidates"]
            assert (only["upstream"], only["removed_by"], only["place"]) == ("cloud", "zone", None)
            (zone,) = [each for each in told["phases"] if each["phase"] == "zone"]
            assert {"by": "header", "zone": "machine"} in zone["said"]
            for sent, status in ((body("nobody"), 404), ({"model": "auto"}, 400)):
                assert (await front.http.post(EXPLAIN, json=sent)).status_code == status
            elsewhere = await front.http.post(EXPLAIN, params={"path": "/x"}, json=body())
            assert elsewhere.status_code == 404
            prompt = {"model": "auto", "prompt": "x"}
            at = {"path": "/v1/completions"}
            told = (await front.http.post(EXPLAIN, params=at, json=prompt)).json()
            assert told["facts"]["endpoint"] == "completion"
            huge = await front.http.post(EXPLAIN, content=b" " * (9 * 1024 * 1024),
                                         headers={"content-type": "application/json"})  # fmt: skip
            assert huge.status_code == 413

    run(story())


def test_the_others_have_their_price_and_time() -> None:
    """Each candidate has its cost and, where it was measured, how long it would take; what nobody
    knows is null."""
    dear = upstream("dear", price=Price(input=1.0, output=2.0))
    unknown = upstream("unknown")
    harness = Harness([ScriptedBackend(dear, saying("x")), ScriptedBackend(unknown, saying("y"))])

    async def story() -> dict[str, Any]:
        await harness.fleet.look()
        trial = harness.fleet.within(Zone.PUBLIC).begin("dear")
        assert trial is not None
        trial.first_content(0.5)
        trial.end(None)
        paces = TokenPaces()
        paces.see(replace(draft(), upstream="dear", inter_token_s=0.01).freeze())
        return await explain(harness.pipeline.planner, exchange(), paces.of)

    told = run_story(story())
    first, second = told["candidates"]
    assert told["assumed"]["completion_tokens"] == 256
    assert first["cost_usd"] == pytest.approx((1 * 1.0 + 256 * 2.0) / 1e6)
    assert (first["ttft_ms"], first["duration_ms"]) == (500.0, 500.0 + 10.0 * 255)
    assert (second["cost_usd"], second["ttft_ms"], second["duration_ms"]) == (None, None, None)


@pytest.mark.parametrize(("model", "asks"), [("auto", True), ("deaf", False), ("a", False)])
def test_matching_rules_are_named(model: str, asks: bool) -> None:
    """All that match are told; of those with `use:` the first decides, and none does for a pin or
    an alias that does not ask rules."""
    harness = Harness([ScriptedBackend(upstream("a"), saying("x"))])
    planner = harness.pipeline.planner
    rules = (
        Rule(name="none", when=ALWAYS, use="b", mode=Mode.OBSERVE),
        Rule(name="one", when=ALWAYS, use="a"),
        Rule(name="two", when=ALWAYS, use="b"),
        Rule(name="three", when=ALWAYS, locality=Zone.ORGANISATION),
    )
    deaf = planner.rulebook.aliases["auto"]
    asking = replace(deaf, policy=RulesPolicy(Settings(rules=rules)))
    aliases = {"auto": asking, "deaf": deaf}
    planner.rulebook = replace(planner.rulebook, rules=rules, aliases=aliases)

    async def story() -> dict[str, Any]:
        await harness.fleet.look()
        return await explain(planner, exchange(model=model))

    assert run_story(story())["rules"] == [
        {"rule": "none", "mode": "observe", "use": "b", "decides": False},
        {"rule": "one", "mode": "enforce", "use": "a", "decides": asks},
        {"rule": "two", "mode": "enforce", "use": "b", "decides": False},
        {"rule": "three", "mode": "enforce", "locality": "organisation"},
    ]


def test_decisions_are_few_and_say_no_header() -> None:
    """The log is bounded, newest first; a key sees its own; a header's words are not in it."""
    decisions = Decisions(capacity=3)
    harness = Harness([ScriptedBackend(upstream("a"), saying("x"))])
    planner = harness.pipeline.planner
    planner.rulebook = replace(planner.rulebook, headers=frozenset({"x-team"}))

    async def story() -> None:
        await harness.fleet.look()
        for at in range(5):
            caller = Caller(key_id=f"key{at % 2}")
            asked = exchange(caller=caller, headers={"x-team": "red-team"})
            decisions.note(replace(asked, id=f"req_{at}"), await planner.plan(asked), float(at))

    run_story(story())
    assert [each["id"] for each in decisions.latest(10)] == ["req_4", "req_3", "req_2"]
    assert [each["id"] for each in decisions.latest(1)] == ["req_4"]
    assert [each["id"] for each in decisions.latest(10, "key1")] == ["req_3"]
    assert "red-team" not in str(decisions.latest(10))
    assert decisions.latest(1)[0]["facts"]["header.x-team"] == "(set)"


def test_decisions_are_on_the_gateway() -> None:
    """GET /v1/route/decisions lists what was decided live."""

    async def story() -> None:
        async with FakeUpstream(ok) as cloud, fronting({"cloud": cloud.base_url}) as front:
            answer = await front.ask()
            listed = (await front.http.get("/v1/route/decisions", params={"limit": 5})).json()
            (only,) = listed["data"]
            assert only["id"] == answer.headers["x-request-id"]
            assert (only["reason"], only["order"]) == ("static", ["cloud"])
            for limit in (0, 1001, "x"):
                refused = await front.http.get("/v1/route/decisions", params={"limit": limit})
                assert refused.status_code in (400, 422)

    run(story())


NEAR = upstream("near", tier=Tier.LOCAL, zone=Zone.MACHINE)
FAR = upstream("far", price=Price(input=1.0, output=2.0))
USED = Usage(prompt_tokens=1000, completion_tokens=500)


def draft(**changes: Any) -> RecordDraft:
    plain = RecordDraft(
        id="1", endpoint="chat", model="auto", stream=False, tenant="t", key_id="", zone="public"
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "cloud", "local", "saved"),
    [
        ({"upstream": "near", "tier": Tier.LOCAL, "cost_usd": 0.0}, 0.002, 0.0, 0.002),
        ({"upstream": "far", "tier": Tier.CLOUD, "cost_usd": 0.003}, 0.003, 0.0, 0.0),
        ({"upstream": "near", "tier": Tier.LOCAL, "cost_usd": 0.005}, 0.002, 0.005, -0.003),
        (
            {"upstream": "near", "tier": Tier.LOCAL, "cost_usd": None, "cost_known": False},
            0.002, None, None,
        ),
        (
            {"upstream": "near", "tier": Tier.LOCAL, "cost_usd": 0.0,
             "others": (NEAR, upstream("free"))},
            None, 0.0, None,
        ),
        (
            {"upstream": "near", "tier": Tier.LOCAL, "cost_usd": 0.0, "others": (NEAR, NEAR)},
            None, 0.0, None,
        ),
    ],
)  # fmt: skip
def test_what_it_would_have_cost_elsewhere(
    changes: dict[str, Any], cloud: float | None, local: float | None, saved: float | None
) -> None:
    """The same tokens at the other side's price; no price, or nobody there, is unknown, never 0."""
    plain: dict[str, Any] = {"cost_known": True, "usage": USED, "others": (NEAR, FAR)}
    found = counterfactual(draft(**{**plain, **changes}).freeze())
    assert found is not None
    assert (found.all_cloud, found.all_local) == (cloud, local)
    assert found.saved == pytest.approx(saved)


@pytest.mark.parametrize("changes", [{"others": ()}, {"others": (NEAR,)}, {"tier": Tier.CACHE}])
def test_no_choice_is_in_no_ledger(changes: dict[str, Any]) -> None:
    """A request that could go one way only, and what a cache answered, say nothing of savings."""
    plain: dict[str, Any] = {"tier": Tier.LOCAL, "upstream": "near", "others": (NEAR, FAR)}
    assert counterfactual(draft(**{**plain, **changes}).freeze()) is None


def test_savings_are_counted_live() -> None:
    """A local answer that the cloud would have sold is saved; one without a price is unknown."""
    near = ScriptedBackend(NEAR, saying("a", "b"))
    harness = Harness([near, ScriptedBackend(FAR, saying("c"))])
    assert run_story(harness.answer()) == "ab"
    (record,) = harness.records
    found = counterfactual(record)
    assert found is not None and found.all_local == 0.0
    assert found.saved == pytest.approx((3 * 1.0 + 2 * 2.0) / 1e6)


def test_the_ledger_is_in_the_metrics() -> None:
    """Savings, spending beyond the cloud's price, and what is not known are counted apart."""
    metrics = Metrics(models=["auto"], upstreams=["near", "far"])
    for usd, others in ((0.0, (NEAR, FAR)), (0.005, (NEAR, FAR)), (0.0, (NEAR, upstream("free")))):
        answered = draft(upstream="near", tier=Tier.LOCAL, cost_usd=usd, cost_known=True)
        metrics.observe(replace(answered, usage=USED, others=others).freeze())
    text = metrics.render()[0].decode()
    assert 'tandem_savings_usd_total{model="auto"} 0.002' in text
    assert 'tandem_overspending_usd_total{model="auto"} 0.003' in text
    assert 'tandem_counterfactual_unknown_total{all="cloud"} 1.0' in text
    assert 'tandem_counterfactual_cost_usd_total{all="cloud"} 0.004' in text
