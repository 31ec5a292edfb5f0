"""`tandem route explain < request.json`: where a request would go, why, and what others would cost.

The same `Planner.plan` that live requests take. Without --config it takes what zero configuration
finds; upstreams are not started, so all count as up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.app import Gateway
from gateway.balance import Member
from gateway.cli.serve import default_model_dir
from gateway.config import Config, ConfigError, load
from gateway.core.chat import Usage
from gateway.core.errors import TandemError
from gateway.core.exchange import Caller, Exchange
from gateway.core.registry import load as load_class
from gateway.core.routing import Upstream
from gateway.dialects import DIALECTS
from gateway.discovery import TARGET, discover
from gateway.plan import Plan
from gateway.wire.strict import parse
from router_policies.learned.utility import worth

ASSUMED_COMPLETION = 256
"""Tokens an answer is taken to have when the request sets no limit."""
MOST_PARTS = 8
"""Of a score, shown one by one."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("route", help="explain routing decisions")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    explain = actions.add_parser("explain", help="read a request from standard input")
    explain.add_argument("-c", "--config", type=Path)
    explain.add_argument("--path", default="/v1/chat/completions", choices=sorted(DIALECTS))
    explain.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    explain.add_argument("--local-only", action="store_true")
    explain.add_argument("--model-dir", type=Path, default=default_model_dir())
    explain.set_defaults(run=run_explain)


def run_explain(arguments: argparse.Namespace) -> int:
    try:
        print(asyncio.run(explain(arguments, sys.stdin.buffer.read(), os.environ)))
    except (ConfigError, TandemError) as error:
        code = f" ({error.status} {error.code})" if isinstance(error, TandemError) else ""
        print(f"{error}{code}", file=sys.stderr)
        return 2
    return 0


async def explain(arguments: argparse.Namespace, raw: bytes, env: Mapping[str, str]) -> str:
    """The explanation as text. Raises TandemError for a request that nothing may serve."""
    headers = dict(_header(text) for text in arguments.header)
    dialect = load_class(DIALECTS, arguments.path, what="path")()
    request = dialect.decode(parse(raw), headers)
    async with AsyncExitStack() as stack:
        gateway = Gateway(await _config(arguments, env), model_dir=arguments.model_dir)
        stack.push_async_callback(gateway.aclose)
        gateway.fleet.assume_healthy()
        exchange = Exchange(
            id="explain",
            caller=Caller(),
            request=request,
            arrived=time.monotonic(),
            headers=headers,
        )
        plan = await gateway.pipeline.planner.plan(exchange)
        lines = _lines(plan, request.model, request.sampling.max_tokens)
        if plan.assessor is not None and "router.score" in plan.facts:
            lines += ["", *_worths(gateway.config, plan, request.model)]
            lines += ["", *_contributions(plan.assessor.explain(request))]
        return "\n".join(lines)


async def _config(arguments: argparse.Namespace, env: Mapping[str, str]) -> Config:
    if arguments.config is not None:
        return load(arguments.config, env)
    found = await discover(env, arguments.model_dir, local_only=arguments.local_only)
    upstreams = dict(found.upstreams)
    if found.needs_companion:
        # Never called here: it only has to be an address.
        upstreams[TARGET] = {**upstreams[TARGET], "base_url": "http://127.0.0.1:1"}
    return Config.build(upstreams=upstreams, privacy={"default": found.default_zone})


def _lines(plan: Plan, model: str, limit: int | None) -> list[str]:
    route = plan.route
    why = f"{route.reason} ({route.rule})" if route.rule else route.reason
    if plan.balanced is not None:
        why += f", balanced by {route.balance}"
    tokens = int(plan.facts["prompt_tokens"])
    usage = Usage(prompt_tokens=tokens, completion_tokens=limit or ASSUMED_COMPLETION)
    shown = [
        f"model     {model}",
        f"zone      {plan.zone.label}",
        f"decided   {why}" + (f", score {route.score:.3f}" if route.score is not None else ""),
        f"prompt    about {tokens} tokens; answer taken as {usage.completion_tokens}",
        "",
    ]
    for place, candidate in enumerate(route.candidates):
        word = "goes to" if place == 0 else "then to"
        shown.append(f"{word:<9} {_describe(candidate.upstream, usage)}")
    shown += [f"balanced  {_balanced(group)}" for group in _groups(plan)]
    shown += [f"not to    {r.upstream}: {r.reason}, {r.detail}" for r in route.rejected]
    shown += ["", "facts     " + ", ".join(f"{k}={v}" for k, v in sorted(plan.facts.items()))]
    return shown


def _groups(plan: Plan) -> tuple[tuple[Member, ...], ...]:
    return () if plan.balanced is None else plan.balanced.groups


def _balanced(group: tuple[Member, ...]) -> str:
    """The group, best member first: what each costs now, and what of the prompt it knows."""
    total = sum(member.weight for member in group)
    return "; ".join(
        f"{member.name} (share {member.weight / total:.0%}, {member.candidate.in_flight} in flight,"
        f" {member.warm:.0f} tokens warm, cost {member.cost_s * 1e3:.0f} ms)"
        for member in group
    )


def _worths(config: Config, plan: Plan, model: str) -> list[str]:
    """What the learned policy holds of each candidate."""
    weights = config.aliases[model].weights_for(model)
    shown: list[str] = []
    for each in plan.route.candidates:
        said = worth(each, plan.facts, weights, config.router.abilities)
        shown.append(
            f"{'worth' if not shown else '':<9} {said.utility:+.3f} {each.upstream.name}: "
            f"quality {said.quality:.3f}, about {said.seconds:.1f} s"
        )
    return shown


def _contributions(parts: Mapping[str, float]) -> list[str]:
    """What gave how much to the score, the largest first; the small ones together."""
    ordered = sorted(parts.items(), key=lambda part: -abs(part[1]))
    large, small = ordered[:MOST_PARTS], ordered[MOST_PARTS:]
    if small:
        large.append((f"{len(small)} others", sum(value for _, value in small)))
    shown = [f"{'score':<9} {sum(parts.values()):+.4f}, the sum of"]
    return shown + [f"{'':<9} {value:+.4f} {name}" for name, value in large]


def _describe(upstream: Upstream, usage: Usage) -> str:
    usd = upstream.cost_of(usage)
    price = "price unknown" if usd is None else f"{usd:.6f} USD"
    how = f", {upstream.strategy}" if upstream.strategy else ""
    return f"{upstream.name} ({upstream.tier.value}, {upstream.zone.label}, {price}{how})"


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip().lower(), value.strip()
