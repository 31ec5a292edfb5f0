"""No rule, pin, score, fault or reload reaches what a harder phase has removed. Three walls, and
each holds alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import BACKENDS
from backends.base import Backend, Resources
from gateway.admission import Admission
from gateway.config import Config
from gateway.conversations import Conversations
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message
from gateway.core.errors import (
    LocalUnavailable,
    TandemError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamUnreachable,
)
from gateway.core.exchange import Call, Caller, Exchange
from gateway.core.registry import load
from gateway.core.routing import Candidate, Facts, Route, Tier, Zone
from gateway.detect.detector import PatternDetector
from gateway.detect.patterns import patterns
from gateway.explain import explain
from gateway.fleet import Fleet
from gateway.pipeline import Pipeline
from gateway.plan import Planner
from gateway.rulebook import rulebook
from tests.fakes.harness import Kept, exchange, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream

NAMES = ("a", "b", "c", "d")
COMBINED_OF = {
    "thrifty": {"kind": "cascade", "draft": "a", "strong": "b"},
    "quick": {"kind": "race", "of": ["c", "d"], "after": 0.0},
}
PARTS = {"thrifty": ("a", "b"), "quick": ("c", "d"), **{name: (name,) for name in NAMES}}
EVERYBODY = (*NAMES, *COMBINED_OF)
ZONES = st.sampled_from([zone.label for zone in Zone])
TEAMS = ("red", "blue")
EMAIL = "ask jane.doe@acme.io"
FAILURES = (UpstreamUnreachable, UpstreamFailed, UpstreamOverloaded)

WHEN = st.one_of(
    st.just({"stream": False}),
    st.sampled_from(TEAMS).map(lambda team: {"header.x-team": team}),
    st.just({"has_tools": True}),
    st.just({"not": {"header.x-team": {"exists": True}}}),
)
RULE = st.fixed_dictionaries(
    {},
    optional={
        "when": WHEN,
        "use": st.sampled_from([*EVERYBODY, "auto", "other"]),
        "fallback": st.booleans(),
        "locality": ZONES,
        "mode": st.sampled_from(["enforce", "observe", "bypass_learning"]),
        "priority": st.integers(-2, 2),
        "team": st.sampled_from(["default", "nobody"]),
    },
).filter(
    lambda rule: (
        ("use" in rule or ("locality" in rule and "fallback" not in rule))
        and not ("locality" in rule and rule.get("mode") == "observe")
    )
)
LISTED = st.lists(st.sampled_from(EVERYBODY), min_size=1, max_size=6, unique=True)
POLICIES = (
    ["rules", "static"], ["static"], ["rules", "sticky"],
    ["rules", "learned", "sticky"], ["learned", "static"],
)  # fmt: skip


@st.composite
def configs(draw: st.DrawFn, zones: dict[str, str]) -> dict[str, Any]:
    """Sections of a configuration over the same upstreams."""
    rules = draw(st.lists(RULE, max_size=4))
    policy = draw(st.sampled_from(POLICIES))
    preferences = ["cheap", "fast", "quality", None] if "learned" in policy else [None]
    return {
        "upstreams": {
            name: {
                "kind": "openai",
                "profile": "openai",
                "base_url": "https://cloud.invalid/v1",
                "api_key": "x",
                "model": f"{name}-model",
                "zone": zones[name],
            }
            for name in NAMES
        }
        | COMBINED_OF,
        "models": {
            "auto": {
                "candidates": draw(st.permutations(EVERYBODY))[: draw(st.integers(1, 6))],
                "policy": policy,
                "deadline": draw(st.sampled_from(["1s", None])),
                "prefer": draw(st.sampled_from(preferences)),
            },
            "other": {"candidates": draw(LISTED)},
        },
        "rules": [{"name": f"r{n}", **rule} for n, rule in enumerate(rules)],
        "privacy": {"default": draw(ZONES)},
    }


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    zones = {name: draw(ZONES) for name in NAMES}
    return zones, [draw(configs(zones)) for _ in range(2)]


@dataclass(frozen=True)
class Asked:
    """One request as a client sends it."""

    model: str
    key: Zone
    header: str | None
    team: str | None
    private: bool
    tools: bool


ASKED = st.builds(
    Asked,
    model=st.sampled_from(["auto", "auto", "auto", *EVERYBODY, "other", "auto", "auto", "auto"]),
    key=st.sampled_from(list(Zone)),
    header=st.none() | ZONES,
    team=st.none() | st.sampled_from(TEAMS),
    private=st.booleans(),
    tools=st.booleans(),
)


def widest(asked: Asked, sections: dict[str, Any]) -> Zone:
    """What the request may reach, worked out here from the configuration's own words."""
    labels = {zone.label: zone for zone in Zone}
    zones = [asked.key, labels[sections["privacy"]["default"]]]
    if asked.header is not None:
        zones.append(labels[asked.header])
    if asked.private:
        zones.append(Zone.MACHINE)
    zones += [
        labels[rule["locality"]]
        for rule in sections["rules"]
        if "locality" in rule
        and rule.get("team", "default") == "default"
        and holds(rule.get("when"), asked)
    ]
    return min(zones)


def holds(when: dict[str, Any] | None, asked: Asked) -> bool:
    match when:
        case None:
            return True
        case {"stream": wanted}:
            return wanted is False
        case {"header.x-team": team}:
            return asked.team == team
        case {"has_tools": _}:
            return asked.tools
        case _:
            return asked.team is None


class Rogue:
    """Orders whatever it finds, and calls back what was removed."""

    name = "rogue"

    def __init__(self, fleet: Fleet, random: Random) -> None:
        self._fleet = fleet
        self._random = random

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route:
        everything = list(self._fleet.snapshot(EVERYBODY))
        self._random.shuffle(everything)
        return Route(candidates=tuple(everything), reason="learned", score=1.0)


@dataclass
class Wild:
    """Predicts anything, and whatever a closed loop may say."""

    random: Random

    def assess(self, request: ChatRequest) -> Facts:
        if self.random.random() < 0.1:
            return {}
        names = ["score", "weak_ok", "strong_ok", "novelty"]
        names += ["rank", "cut"] if self.random.random() < 0.5 else []
        facts: dict[str, Any] = {f"router.{name}": self.random.random() for name in names}
        return facts | {"router.capped": self.random.random() < 0.3}

    def explain(self, request: ChatRequest) -> dict[str, float]:
        return {}

    def note(self, facts: Facts, route: Route) -> None:
        pass

    def kept(self, route: Route) -> None:
        pass

    def spent(self, usd: float) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}


@dataclass
class Queued(ScriptedBackend):
    """One with a queue of its own, which may be of any length, and drafts that bring something."""

    wait_s: float = 0.0
    gain: float | None = None


def request_of(asked: Asked) -> Exchange:
    content = EMAIL if asked.private else "hello"
    features = {Feature.CHAT} | ({Feature.TOOLS} if asked.tools else set())
    headers = {}
    if asked.header is not None:
        headers["x-tandem-zone"] = asked.header
    if asked.team is not None:
        headers["x-team"] = asked.team
    return replace(
        exchange(asked.model, caller=Caller(zone=asked.key), headers=headers),
        request=ChatRequest(
            endpoint=Endpoint.CHAT,
            dialect="openai_chat",
            model=asked.model,
            messages=(Message(role="user", text=content),),
            features=frozenset(features),
            body={"messages": [{"role": "user", "content": content}]},
        ),
    )


@settings(max_examples=150, deadline=None)
@given(
    worlds(),
    st.lists(ASKED, min_size=3, max_size=8),
    st.integers(0, 2**32),
    st.sets(st.sampled_from(NAMES)),
    st.booleans(),
)
def test_nothing_brings_back_what_was_removed(
    world: tuple[dict[str, str], list[dict[str, Any]]],
    requests: list[Asked],
    seed: int,
    without_tools: set[str],
    rogue: bool,
) -> None:
    """Over any rules, aliases, pins, faults, scores, queues and reloads: an upstream outside the
    request's zone is never asked, by itself, in a cascade or in a race, nor one that lacks what it
    needs, nor is a plan made that names one."""
    zones, sections = world
    random = Random(seed)
    labels = {zone.label: zone for zone in Zone}

    def script() -> list[Any]:
        return [random.choice(FAILURES)("down")] if random.random() < 0.5 else saying("fine")

    backends = {
        name: Queued(
            upstream(
                name,
                zone=labels[zones[name]],
                tier=random.choice(list(Tier)),
                features=frozenset(Feature) - ({Feature.TOOLS} if name in without_tools else set()),
            ),
            script,
            ok=random.random() < 0.9,
            wait_s=random.choice([0.0, 5.0]),
            gain=random.choice([None, 1.5]),
        )
        for name in NAMES
    }
    now = [0.0]
    fleet = Fleet({**backends, **combined_of(backends)}, lambda: now[0])

    async def story() -> None:
        watch = PatternDetector(patterns(["email"]), {"email": Zone.MACHINE})
        pipelines = []
        for each in sections:
            config = Config.build(**each)
            book = rulebook(config, detector=watch, conversations=Conversations(lambda: now[0]))
            predicted = {
                name: alias if alias.assessor is None else replace(alias, assessor=Wild(random))
                for name, alias in book.aliases.items()
            }
            planner = Planner(fleet, replace(book, aliases=predicted))
            if rogue:
                book = planner.rulebook
                bad = Rogue(fleet, random)
                aliases = {n: replace(alias, policy=bad) for n, alias in book.aliases.items()}
                planner.rulebook = replace(book, aliases=aliases, pin=bad)
            pipelines.append(pipeline(fleet, planner, lambda: now[0]))
        for asked in requests:
            at = random.randrange(2)  # another configuration has come in force
            now[0] += random.choice([0.0, 1.0, 60.0])
            await fleet.look()
            allowed = widest(asked, sections[at])
            before = {name: len(backend.calls) for name, backend in backends.items()}
            try:
                if not rogue:
                    plan = await pipelines[at].planner.plan(request_of(asked))
                    assert plan.zone == allowed
                    assert all(allowed.admits(c.upstream.zone) for c in plan.route.candidates)
                    for removed in plan.route.rejected:
                        assert all(
                            c.upstream.name != removed.upstream for c in plan.route.candidates
                        )
                    told = await explain(pipelines[at].planner, request_of(asked))
                    placed = [c for c in told["candidates"] if c["place"] is not None]
                    assert all(allowed.admits(labels[c["zone"]]) for c in placed)
                reply = await pipelines[at].answer(request_of(asked))
                try:
                    await reply.events.into(Kept())
                finally:
                    await reply.events.aclose()
            except TandemError:
                pass
            for name, backend in backends.items():
                if len(backend.calls) == before[name]:
                    continue
                assert allowed.admits(backend.upstream.zone)
                assert backend.told[-1].zone <= allowed
                if not rogue:  # a policy of somebody else's making is held to the zone alone
                    assert not (asked.tools and name in without_tools)
                    assert name in PARTS.get(asked.model, NAMES)
        await watch.aclose()

    run(story())


def combined_of(backends: dict[str, Queued]) -> dict[str, Backend]:
    """A cascade and a race over them, as a configuration makes them."""
    built: dict[str, Backend] = {}
    for name, entry in COMBINED_OF.items():
        kind = load(BACKENDS, str(entry["kind"]), what="kind")
        options = kind.options_model.model_validate(entry)
        built[name] = kind(name, options, Resources(backends=dict(backends)))
    return built


def pipeline(fleet: Fleet, planner: Planner, clock: Any) -> Pipeline:
    return Pipeline(
        fleet=fleet,
        planner=planner,
        admission=Admission(limit=8),
        cache=None,
        record=lambda record: None,
        energy=lambda upstream, seconds: (None, True),
        clock=clock,
        wall=clock,
    )


def test_what_is_outside_cannot_be_had() -> None:
    """The second wall: a request holds its zone's upstreams and no others, whoever names them."""
    fleet = Fleet(
        {zone.label: ScriptedBackend(upstream(zone.label, zone=zone)) for zone in Zone}, lambda: 0.0
    )
    for zone in Zone:
        reach = fleet.within(zone)
        for other in Zone:
            assert (other.label in reach) == zone.admits(other)
            if zone.admits(other):
                assert reach.backend(other.label).upstream.zone == other
                continue
            for step in (reach.backend, reach.begin):
                with pytest.raises(LocalUnavailable):
                    step(other.label)


def test_a_plan_that_lies_about_its_zone_opens_nothing() -> None:
    """Even with the first and the second wall gone, the third looks before each attempt."""
    cloud = ScriptedBackend(upstream("cloud"), saying("leak"))
    fleet = Fleet({"cloud": cloud}, lambda: 0.0)

    async def story() -> None:
        await fleet.look()
        config = Config.build(
            upstreams={"cloud": {"kind": "openai", "profile": "openai", "model": "m",
                                 "api_key": "x"}}
        )  # fmt: skip
        planner = Planner(fleet, rulebook(config))
        plan = await planner.plan(exchange("cloud"))

        class Lying:
            rulebook = planner.rulebook

            async def plan(self, exchange: Exchange) -> Any:
                return replace(plan, zone=Zone.MACHINE)

        lying = pipeline(fleet, Lying(), lambda: 0.0)  # type: ignore[arg-type]
        with pytest.raises(LocalUnavailable):
            await lying.answer(exchange("cloud"))

    run(story())
    assert cloud.calls == []


COMBINED = {
    "race": {"kind": "race", "of": ["near", "far"]},
    "continuation": {"kind": "continuation", "of": ["far", "near"], "same_model": True},
    "cascade": {"kind": "cascade", "draft": "near", "strong": "far"},
}


@pytest.mark.parametrize("kind", ["plain", *COMBINED])
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION, Endpoint.EMBEDDINGS])
def test_the_egress_client_looks_by_itself(kind: str, endpoint: Endpoint) -> None:
    """The last wall: a backend that is handed a request of a tighter zone opens no connection, also
    through what races it or goes on with its answers."""
    opened: list[str] = []

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            opened.append(request.url.host)
            raise httpx.ConnectError("refused")

    def built(name: str, entry: dict[str, Any], parts: dict[str, Backend]) -> Backend:
        backend = load(BACKENDS, entry["kind"], what="kind")
        resources = Resources(transport=Transport, backends=parts)
        return backend(name, backend.options_model.model_validate(entry), resources)  # type: ignore[no-any-return]

    entry = {"kind": "openai", "profile": "openai", "api_key": "x", "model": "m"}
    near = built("near", {**entry, "zone": "machine", "base_url": "http://near.invalid/v1"}, {})
    far = built("far", {**entry, "zone": "public", "base_url": "https://far.invalid/v1"}, {})
    asked = far if kind == "plain" else built(kind, COMBINED[kind], {"near": near, "far": far})
    text = {Endpoint.CHAT: {"messages": (Message(role="user", text="x"),)},
            Endpoint.COMPLETION: {"prompt": "x"},
            Endpoint.EMBEDDINGS: {"inputs": ("x",)}}[endpoint]  # fmt: skip
    request = ChatRequest(endpoint=endpoint, dialect="none", model="m", **text)  # type: ignore[arg-type]

    async def story() -> None:
        with pytest.raises(TandemError):
            async for _ in asked.stream(request, Call(id="1", zone=Zone.MACHINE)):
                pass
        for backend in (near, far):
            await backend.aclose()

    asyncio.run(story())
    assert set(opened) <= {"near.invalid"}
    assert kind in ("plain", "cascade") or opened
