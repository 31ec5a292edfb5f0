"""What prefix affinity saves: multi-turn conversations over two real servers of one model.

Two gateways with the bundled target stand behind a third, which balances or chooses at random, in
turns. Keys: balance_prefill_cpu_saving (CPU seconds of both engines' workers at random over those
with balancing), balance_cached_share and balance_cached_share_random (prompt tokens that were
cached), balance_stayed (turns that went where the last one was), balance_us_160 and _4k (cost of
one choice between two, by the prompt's characters), balance_us_4k_with_notes (and of what is noted
after it) and balance_us_none (of a route with nothing to balance).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gateway.balancer import Balancer  # noqa: E402 (the path above)
from gateway.core.chat import ChatRequest, Endpoint, Message, Usage  # noqa: E402 (the path above)
from gateway.core.routing import Candidate, Route, Zone  # noqa: E402 (the path above)
from tests.fakes.scripted import upstream  # noqa: E402 (the path above)
from tests.fakes.two_boxes import Told, two_boxes  # noqa: E402 (the path above)

RUNS = 3


def choice_us(prompt: int, models: tuple[str, str], *, learn: bool = False) -> float:
    """Median CPU microseconds of a choice among two, and with `learn` of what is noted after it."""
    balancer = Balancer()
    named = zip("ab", models, strict=True)
    pair = [Candidate(upstream=upstream(name, model=model)) for name, model in named]
    route = Route(candidates=tuple(pair), reason="static")
    text = "".join(f"word {at} " for at in range(prompt // 7))[:prompt]
    request = ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="m",
        messages=(Message(role="user", text=text),),
    )
    usage = Usage(prompt_tokens=prompt // 4, cached_tokens=prompt // 8)
    rounds = []
    for _ in range(15):
        begun = time.process_time()
        for _ in range(400):
            _, seen = balancer.order(route, request, tenant="t", zone=Zone.PUBLIC, groups=None)
            if learn:
                balancer.begun(seen, "a")
                balancer.ended(seen, "a", usage, 0.1)
        rounds.append((time.process_time() - begun) / 400 * 1e6)
    return statistics.median(rounds)


async def both(runs: int) -> tuple[list[tuple[float, Told]], list[tuple[float, Told]]]:
    """(worker seconds, what was told) of each run, with affinity and by chance."""
    warm: list[tuple[float, Told]] = []
    chance: list[tuple[float, Told]] = []
    async with two_boxes() as pair:
        balancer, rng = pair.front.gateway.pipeline.planner.balancer, random.Random(0)
        ours = balancer.order

        def shuffled(route: Route, *_: Any, **__: Any) -> tuple[Route, None]:
            return replace(route, candidates=tuple(rng.sample(route.candidates, 2))), None

        for run in range(2 * runs):
            affine = run % 2 == 0
            balancer.order = ours if affine else shuffled  # type: ignore[method-assign, assignment]
            before = pair.worker_seconds()
            told = await pair.crowd(seed=run)
            (warm if affine else chance).append((pair.worker_seconds() - before, told))
    return warm, chance


def main() -> None:
    runs = 1 if "--quick" in sys.argv else RUNS
    warm, chance = asyncio.run(both(runs))
    shown = {}
    for name, side in (("affinity", warm), ("random", chance)):
        cpu = statistics.median(seconds for seconds, _ in side)
        cached = statistics.median(told.cached / told.prompt for _, told in side)
        stayed = statistics.median(told.stayed / told.moves for _, told in side)
        shown[name] = cpu, cached, stayed
        print(f"{name:<10} {cpu:6.2f} CPU s   cached {cached:5.1%}   stayed {stayed:5.1%}")
    none = choice_us(4096, ("m", "n"))
    costs = {size: choice_us(size, ("m", "m")) for size in (160, 4096, 65536)}
    whole = choice_us(4096, ("m", "m"), learn=True)
    print(
        f"a choice: {none:.2f} us with nothing to balance; by the prompt's characters, us: {costs}"
    )
    print(f"with what is noted after it, 4096 characters: {whole:.1f} us")
    figures = {
        "balance_prefill_cpu_saving": shown["random"][0] / shown["affinity"][0],
        "balance_cached_share": shown["affinity"][1],
        "balance_cached_share_random": shown["random"][1],
        "balance_stayed": shown["affinity"][2],
        "balance_us_none": none,
        "balance_us_160": costs[160],
        "balance_us_4k": costs[4096],
        "balance_us_4k_with_notes": whole,
    }
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
