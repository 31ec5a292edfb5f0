"""Every fault once more with requests that must stay here, beside a cloud that records: it sees no
connection, whatever breaks, and what nobody inside can serve is a 503 or the upstream's own error.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.faults import FAULTS, fault, ok
from tests.fakes.fronting import Front, fronting, run
from tests.fakes.ports import unused_port
from tests.fakes.upstream import FakeUpstream

SLOW = frozenset({"talk", "drip"})
"""Endless or slow by design, and alive: no fault as long as the client stays."""
QUICK = {"connect": 0.3, "first_content": 0.1, "idle": 0.1, "document": 0.1}
"""Whether somebody answers or time runs out is the same to what is asserted."""
STAY = {"x-tandem-zone": "machine"}
PRIVATE = {"messages": [{"role": "user", "content": "CANARY: ask jane.doe@acme.io"}]}
MACHINE = {"bad": "machine", "good": "machine"}


async def replay(front: Front, cloud: FakeUpstream, models: tuple[str, ...]) -> None:
    for model in models:
        for stream in (True, False):
            answer = await front.ask(model, stream=stream, headers=STAY, **PRIVATE)
            assert answer.status != 404
            if model == "cloud":
                assert (answer.status, answer.error["code"]) == (503, "local_unavailable")
    await front.at_rest()
    assert cloud.connections == 0


@pytest.mark.parametrize("name", sorted(set(FAULTS) - SLOW))
def test_a_fault_inside_the_zone_leads_nowhere_else(name: str) -> None:
    """The upstream inside misbehaves; the next one inside answers, or nobody does: with another
    inside and without, streamed and whole, by alias and by a pin on the cloud."""

    async def story() -> None:
        script = fault(name)
        async with FakeUpstream(script) as bad, FakeUpstream(ok) as good, FakeUpstream(ok) as cloud:
            everyone = {"cloud": cloud.base_url, "bad": bad.base_url, "good": good.base_url}
            alone = {"alone": {"candidates": ["bad", "cloud"]}}
            async with fronting(
                everyone, zones=MACHINE, models=alone, timeouts=QUICK, cache=True
            ) as front:
                await replay(front, cloud, ("auto", "alone", "bad", "cloud"))

    run(story())


def test_nobody_inside_is_there_at_all() -> None:
    """Connections refused inside the zone end as errors, and never outside of it."""

    async def story() -> None:
        async with FakeUpstream(ok) as cloud:
            upstreams = {
                "bad": f"http://127.0.0.1:{unused_port()}/v1",
                "cloud": cloud.base_url,
            }
            async with fronting(upstreams, zones=MACHINE, timeouts=QUICK) as front:
                for _ in range(8):  # until its breaker is open, and after
                    await replay(front, cloud, ("auto",))

    run(story())


COMBINED: dict[str, dict[str, Any]] = {
    "race": {"kind": "race", "of": ["bad", "cloud"], "after": 0.01},
    "continuation": {"kind": "continuation", "of": ["bad", "cloud"], "same_model": True},
    "cascade": {"kind": "cascade", "draft": "bad", "strong": "cloud"},
}


@pytest.mark.parametrize("kind", sorted(COMBINED))
def test_a_combined_upstream_with_a_part_outside_is_outside(kind: str) -> None:
    """A race or a continuation with the cloud is not asked at all, also if it calls itself near."""

    async def story() -> None:
        async with FakeUpstream(fault("hang-headers")) as bad, FakeUpstream(ok) as cloud:
            upstreams = {"bad": bad.base_url, "cloud": cloud.base_url}
            both = {**COMBINED[kind], "zone": "machine"}
            async with fronting(upstreams, zones=MACHINE, more={"both": both}) as front:
                answer = await front.ask("both", headers=STAY, **PRIVATE)
                assert (answer.status, answer.error["code"]) == (503, "local_unavailable")
            assert cloud.connections == 0
            assert bad.requests == []

    run(story())
