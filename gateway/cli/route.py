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
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from gateway.app import Gateway
from gateway.cli.arguments import add_model_dir
from gateway.config import Config, ConfigError, load
from gateway.core.errors import TandemError
from gateway.core.exchange import Caller, Exchange
from gateway.core.registry import load as load_class
from gateway.dialects import DIALECTS
from gateway.discovery import TARGET, discover
from gateway.explain import explain as explained
from gateway.plan import Trace
from gateway.wire.strict import parse

MOST_PARTS = 8
"""Of a score, shown one by one."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("route", help="explain routing decisions")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    explain = actions.add_parser("explain", help="read a request from standard input")
    explain.add_argument("-c", "--config", type=Path, help="YAML file; without it: what is found")
    explain.add_argument(
        "--path",
        default="/v1/chat/completions",
        choices=sorted(DIALECTS),
        help="where it would be sent (/v1/chat/completions)",
    )
    explain.add_argument(
        "--header", action="append", type=_header, default=[], metavar="NAME:VALUE",
        help="as a client would send it; a key in it is heeded, none is needed",
    )  # fmt: skip
    explain.add_argument("--local-only", action="store_true", help="nothing leaves this machine")
    add_model_dir(explain)
    explain.add_argument("--json", action="store_true", help="everything, as the API tells it")
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
    headers = dict(arguments.header)
    dialect = load_class(DIALECTS, arguments.path, what="path")()
    request = dialect.decode(parse(raw), headers)
    async with AsyncExitStack() as stack:
        config = (await _config(arguments, env)).leaving_no_trace()
        gateway = Gateway(config, model_dir=arguments.model_dir)
        stack.push_async_callback(gateway.aclose)
        gateway.fleet.assume_healthy()
        keyed = not headers.keys().isdisjoint(("authorization", "x-api-key"))
        exchange = Exchange(
            id="explain",
            caller=gateway.keys.authenticate(headers) if keyed else Caller(),
            request=request,
            arrived=time.monotonic(),
            headers=headers,
        )
        told = await explained(gateway.pipeline.planner, exchange)
        if arguments.json:
            return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()
        # Raises what a client would get.
        await gateway.pipeline.planner.plan(exchange, Trace())
        lines = _lines(told)
        if told["contributions"]:
            lines += ["", *_idle(told), *_worths(told["candidates"])]
            lines += ["", *_contributions(told["contributions"])]
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


def _lines(told: Mapping[str, Any]) -> list[str]:
    decision, assumed = told["decision"], told["assumed"]
    why = decision["reason"] + (f" ({decision['rule']})" if decision["rule"] else "")
    if decision["score"] is not None:
        why += f", score {decision['score']:.3f}"
    if decision["balance"] is not None:
        why += f", balanced by {decision['balance']}"
    shown = [
        f"model     {told['model']}",
        f"zone      {told['zone']}",
        f"decided   {why}",
        f"prompt    about {assumed['prompt_tokens']} tokens; answer taken as"
        f" {assumed['completion_tokens']}",
        "",
    ]
    for each in told["candidates"]:
        if each["place"] is None:
            shown.append(f"not to    {each['upstream']}: {each['removed_by']}, {each['why']}")
        else:
            word = "goes to" if each["place"] == 1 else "then to"
            shown.append(f"{word:<9} {_describe(each)}")
    shown += [f"balanced  {_balanced(group)}" for group in told["balanced"]]
    shown += ["", *_phases(told["phases"]), ""]
    shown += [f"rule      {_rule(each, decision['rule'])}" for each in told["rules"]]
    shown.append("facts     " + ", ".join(f"{k}={v}" for k, v in told["facts"].items()))
    return shown


def _phases(phases: list[Mapping[str, Any]]) -> list[str]:
    lines = []
    for each in phases:
        removed = ", ".join(out["upstream"] for out in each.get("removed", ())) or "nothing"
        match each["phase"]:
            case "name":
                names = ", ".join(each["candidates"])
                said = f"pins {names}" if each["pinned"] else f"{each['alias']} stands for {names}"
            case "zone":
                voices = ", ".join(f"{voice['by']}: {voice['zone']}" for voice in each["said"])
                said = f"removes {removed} ({voices})"
            case "policy":
                said = f"{each['decided']}: {', '.join(each['order'])}"
            case _:
                added = ", ".join(each.get("added", ()))
                said = f"removes {removed}" + (f", adds {added}" if added else "")
        lines.append(f"phase     {each['phase']}: {said}")
    return lines


def _rule(rule: Mapping[str, Any], decided: str | None) -> str:
    wants = [
        f"{key} {rule[key]}" for key in ("use", "locality", "min_bits", "exact") if key in rule
    ]
    mode = "" if rule["mode"] == "enforce" else f" ({rule['mode']})"
    idle = ""
    if rule["mode"] != "observe" and not rule.get("decides", True):
        idle = " (an earlier one decided)" if decided else " (decides nothing here)"
    return f"{rule['rule']} matches: {', '.join(wants) or 'nothing else'}{mode}{idle}"


def _balanced(group: list[Mapping[str, Any]]) -> str:
    """The group, best member first: what each costs now, and what of the prompt it knows."""
    return "; ".join(
        f"{each['upstream']} (share {each['share']:.0%}, {each['in_flight']} in flight,"
        f" {each['warm_tokens']:.0f} tokens warm, cost {each['cost_ms']:.0f} ms)"
        for each in group
    )


def _idle(told: Mapping[str, Any]) -> list[str]:
    """Where something was predicted and not gone by, that it was not."""
    decision, new = told["decision"], told["facts"]["router.novelty"]
    if decision["score"] is not None:
        return []
    why = "its words may be too new for it" if decision["rule"] is None else "a rule did"
    return [f"learned   did not decide: {why} (novelty {new:.2f})"]


def _worths(candidates: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the learned policy holds of each candidate: the terms add up."""
    shown: list[str] = []
    for each in candidates:
        if (said := each["worth"]) is None:
            continue
        usd = "price unknown" if said["usd"] is None else f"about {said['usd']:.6f} USD"
        shown.append(
            f"{'worth' if not shown else '':<9} {said['utility']:+.3f} {each['upstream']}: "
            f"quality {said['quality']:.3f} - price {said['price']:.3f} - latency "
            f"{said['latency']:.3f} - energy {said['energy']:.3f} ({usd}, {said['seconds']:.1f} s)"
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


def _describe(each: Mapping[str, Any]) -> str:
    usd, first = each["cost_usd"], each["ttft_ms"]
    price = "price unknown" if usd is None else f"{usd:.6f} USD"
    soon = "" if first is None else f", first token after {first:.0f} ms"
    how = f", {each['strategy']}" if each["strategy"] else ""
    return f"{each['upstream']} ({each['tier']}, {each['zone']}, {price}{how}{soon})"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is NAME:VALUE")
    return name.strip().lower(), value.strip()
