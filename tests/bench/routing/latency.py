"""How long a decision takes: the learned policy alone, and the whole path before an upstream.

CPU time of the thread, so that who else uses the core does not count; a shared cache still does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gateway.app import Gateway
from gateway.config import loads
from gateway.core.chat import ChatRequest, Endpoint, Message
from gateway.core.exchange import Exchange
from gateway.core.routing import Candidate, Price, Tier, Upstream, Zone
from gateway.limits.keys import create
from router_policies.base import Settings
from router_policies.learned.artifact import Artifact
from router_policies.learned.assessor import AliasAssessor
from router_policies.learned.policy import LearnedPolicy

CONFIG = """
upstreams:
  near: {{kind: openai, zone: machine, base_url: "http://localhost:9", model: a, profile: generic}}
  far: {{kind: openai, base_url: "http://localhost:9", model: b, profile: generic}}
models:
  auto: {{candidates: [near, far], policy: [rules, learned, static], cloud_share: 0.3}}
rules:
  - {{name: one, when: {{header.x-team: {{eq: radiology}}}}, locality: machine}}
  - {{name: two, when: {{all: [{{has_tools: true}}, {{prompt_tokens: {{gt: 9000}}}}]}}, use: far}}
  - {{name: three, when: {{tenant: nobody, model: {{prefix: autumn}}}}, use: near}}
keys: [{{digest: "{digest}"}}]
"""
REPEATS = 3


def request(prompt: str) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="auto",
        messages=(Message(role="user", text=prompt),),
    )


def decision_us(artifact: Artifact, prompts: Sequence[str]) -> list[float]:
    """CPU microseconds from a text to an order of candidates, each prompt by its best of three."""
    assessor = AliasAssessor(artifact, time.monotonic, cloud_share=0.3)
    policy = LearnedPolicy(Settings())
    candidates = [
        Candidate(upstream=Upstream(name=n, kind="x", tier=t, zone=Zone.PUBLIC, model=n, price=p))
        for n, t, p in (
            ("near", Tier.LOCAL, None),
            ("far", Tier.CLOUD, Price(input=1, output=2)),
        )
    ]

    def decide(given: ChatRequest) -> None:
        facts = {"prompt_tokens": 100, **assessor.assess(given)}
        route = policy.choose(facts, candidates)
        assert route is not None
        assessor.note(facts, route)

    return _times([request(prompt) for prompt in prompts], decide)


def path_us(prompts: Sequence[str]) -> list[float]:
    """The same with key check, facts, zone, filters and rules before it."""
    key, digest = create()
    config = loads(CONFIG.format(digest=digest), env={}, folder=Path())
    gateway = Gateway(config)
    gateway.fleet.assume_healthy()
    headers = {"authorization": f"Bearer {key}"}

    def plan(given: ChatRequest) -> None:
        caller = gateway.keys.authenticate(headers)
        exchange = Exchange(
            id="x", caller=caller, request=given, arrived=time.monotonic(), headers=headers
        )
        # A plan that asks no tokenizer never waits, so that one step is the whole of it.
        try:
            gateway.pipeline.planner.plan(exchange).send(None)
        except StopIteration as done:
            done.value.taken()

    try:
        return _times([request(prompt) for prompt in prompts], plan)
    finally:
        asyncio.run(gateway.aclose())


def _times(requests: Sequence[ChatRequest], decide: Callable[[ChatRequest], None]) -> list[float]:
    for each in requests[:200]:
        decide(each)
    rounds = []
    for _ in range(REPEATS):
        taken = []
        for each in requests:
            start = time.thread_time_ns()
            decide(each)
            taken.append(time.thread_time_ns() - start)
        rounds.append(taken)
    best: list[float] = (np.min(rounds, axis=0) / 1e3).tolist()
    return best
