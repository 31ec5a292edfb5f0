"""What an alias's closed loop counts: every request that went by its score, by where it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.routing import Candidate, Route, Tier, Upstream, Zone
from router_policies.learned.artifact import load
from router_policies.learned.assessor import AliasAssessor
from tests.fakes.artifact import save


def candidate(name: str, tier: Tier, kind: str = "x") -> Candidate:
    upstream = Upstream(name=name, kind=kind, tier=tier, zone=Zone.PUBLIC, model=name)
    return Candidate(upstream=upstream)


NEAR, FAR = candidate("near", Tier.LOCAL), candidate("far", Tier.CLOUD)
BOTH = candidate("both", Tier.CLOUD, kind="cascade")
FACTS = {"router.score": 0.5}


@pytest.fixture
def loop(tmp_path: Path) -> AliasAssessor:
    return AliasAssessor(load(save(tmp_path / "made")), lambda: 0.0, cloud_share=0.3)


def route(*candidates: Candidate, score: float | None = 0.5) -> Route:
    return Route(candidates=candidates, reason="learned", score=score)


def share(loop: AliasAssessor) -> float | None:
    found: float | None = loop.state()["cloud_share_lately"]
    return found


def test_who_went_past_a_queue_was_sent(loop: AliasAssessor) -> None:
    """A request by score that was moved to the cloud counts as sent, one by a rule not at all."""
    loop.note(FACTS, replace(route(FAR, NEAR), reason="capacity"))
    loop.note(FACTS, route(NEAR, FAR))
    assert share(loop) == 0.5
    loop.note(FACTS, replace(route(FAR, NEAR, score=None), reason="capacity"))
    loop.note(FACTS, replace(route(FAR, NEAR, score=None), reason="rule"))
    assert (share(loop), loop.state()["requests"]) == (0.5, 2)


def test_only_a_cascade_that_led_can_be_recalled(loop: AliasAssessor) -> None:
    """Its draft was kept: that is a local answer. Whoever else led, what was noted stands."""
    loop.note(FACTS, route(BOTH, FAR, NEAR))
    assert share(loop) == 1.0
    loop.kept(route(FAR, BOTH))
    loop.kept(route(BOTH, FAR, score=None))
    assert share(loop) == 1.0
    loop.kept(route(BOTH, FAR, NEAR))
    assert share(loop) == 0.0
