"""`tandem router probe` and `shadow`: what only running models or a running gateway can tell."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from gateway.app import Gateway
from gateway.cli.arguments import add_model_dir
from gateway.config import load
from gateway.core.chat import ChatRequest, Endpoint, Message, Sampling
from gateway.core.errors import TandemError
from gateway.core.exchange import Caller, Exchange
from gateway.core.routing import Tier, Upstream, Zone
from gateway.core.sink import Whole
from gateway.limits.keys import ENV_KEY

if TYPE_CHECKING:
    from router_policies.learned.model import Assessment
    from router_policies.training.probe import Task

Run = Callable[[argparse.Namespace], int]

MOST_TOKENS = 128
PATIENCE_S = 60.0


def add_parsers(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], guarded: Callable[[Run], Run]
) -> None:
    probe = actions.add_parser("probe", help="measure the abilities of the configured models")
    probe.add_argument("-c", "--config", type=Path, required=True, help="YAML file")
    probe.add_argument("--out", type=Path, required=True, metavar="JSON", help="to write to")
    probe.add_argument("--upstream", action="append", metavar="NAME", help="only these")
    probe.add_argument("--tasks", type=int, default=120, help="asked of each (120)")
    probe.add_argument("--at-once", type=int, default=4, help="requests at once (4)")
    probe.add_argument("--again", action="store_true", help="also what is in the file already")
    add_model_dir(probe)
    probe.set_defaults(run=guarded(run_probe))
    shadow = actions.add_parser(
        "shadow", help=f"what the shadow artifact would have done; {ENV_KEY} is the key, if needed"
    )
    shadow.add_argument(
        "--url", default="http://127.0.0.1:8080", help="of its admin port (http://127.0.0.1:8080)"
    )
    shadow.set_defaults(run=guarded(run_shadow))


def run_probe(arguments: argparse.Namespace) -> int:
    measured = asyncio.run(probe(arguments))
    for name, entry in measured.items():
        print(
            f"{name:<20} ability {entry['ability']:+.2f}: {entry['right']:.0%} of {entry['tasks']} "
            f"tasks right, {entry['expected']:.0%} expected"
        )
    print(f"{arguments.out}: name it as router: {{abilities: {arguments.out.name}}}")
    return 0


async def probe(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Abilities of the upstreams that answer, written to `out` beside what it had.

    Raises ConfigError, ValueError for a name that is not an upstream, OSError.
    """
    from router_policies.learned.artifact import DEFAULT
    from router_policies.learned.artifact import load as load_artifact
    from router_policies.training.probe import tasks

    config = load(arguments.config, os.environ).leaving_no_trace()
    unknown = [name for name in arguments.upstream or () if name not in config.upstreams]
    if unknown:
        raise ValueError(f"no upstream is called {unknown[0]!r}")
    router = (config.router.artifact or load_artifact(DEFAULT)).router
    asked = tasks(arguments.tasks)
    predicted = [router.assess(task.prompt) for task in asked]
    digest = hashlib.sha256("\n".join(task.prompt for task in asked).encode()).hexdigest()[:16]
    kept = _kept(arguments.out)
    gateway = Gateway(config, model_dir=arguments.model_dir)

    def known(upstream: Upstream) -> bool:
        entry = kept.get(upstream.name, {})
        same = entry.get("model") == upstream.model and entry.get("probe") == digest
        return same and not arguments.again

    wanted = arguments.upstream or gateway.fleet.names
    try:
        new = [u for u in gateway.fleet.upstreams() if u.name in wanted and not known(u)]
        if new:
            await gateway.start()
        for upstream in new:
            answers = await _answers(gateway, upstream.name, asked, arguments.at_once)
            errors = [answer for answer in answers if isinstance(answer, TandemError)]
            if len(errors) == len(answers):
                print(f"{upstream.name}: gave no answer, left out ({errors[0]})")
                continue
            entry = _entry(upstream, asked, predicted, answers)
            kept[upstream.name] = {**entry, "model": upstream.model, "probe": digest}
    finally:
        await gateway.aclose()
    arguments.out.write_text(json.dumps({"abilities": kept}, indent=1) + "\n")
    return kept


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    kept = json.loads(path.read_text()).get("abilities")
    if not isinstance(kept, dict):
        raise ValueError(f"{path} is not a file that `tandem router probe` wrote")
    return kept


def _entry(
    upstream: Upstream,
    asked: list[Task],
    predicted: list[Assessment],
    answers: list[str | TandemError],
) -> dict[str, Any]:
    """The ability of one upstream, from those of its tasks that it answered."""
    from router_policies.training.probe import ability, right

    local = upstream.tier is Tier.LOCAL
    chances, outcomes = [], []
    for task, said, answer in zip(asked, predicted, answers, strict=True):
        if isinstance(answer, str):
            chances.append(said.weak_ok if local else said.strong_ok)
            outcomes.append(right(task, answer))
    return {
        "ability": round(ability(chances, outcomes), 3),
        "right": round(sum(outcomes) / len(outcomes), 3),
        "expected": round(sum(chances) / len(chances), 3),
        "tasks": len(outcomes),
    }


async def _answers(
    gateway: Gateway, name: str, asked: list[Task], at_once: int
) -> list[str | TandemError]:
    """An upstream's answers, or what went wrong."""
    gate = asyncio.Semaphore(at_once)

    async def ask(number: int, task: Task) -> str | TandemError:
        request = ChatRequest(
            endpoint=Endpoint.CHAT,
            dialect="openai_chat",
            model=name,
            messages=(Message(role="user", text=task.prompt),),
            sampling=Sampling(max_tokens=MOST_TOKENS, temperature=0.0),
            stream=True,
            body={
                "stream": True,
                "model": name,
                "messages": [{"role": "user", "content": task.prompt}],
                "max_tokens": MOST_TOKENS,
                "temperature": 0,
            },
        )
        now = time.monotonic()
        exchange = Exchange(
            id=f"probe-{name}-{number}",
            caller=Caller(zone=Zone.PUBLIC),
            request=request,
            arrived=now,
            deadline=now + PATIENCE_S,
        )
        try:
            async with gate:
                reply = await gateway.pipeline.answer(exchange)
                try:
                    whole = Whole()
                    await reply.events.into(whole)
                finally:
                    await reply.events.aclose()
        except TandemError as error:
            return error
        choices = whole.completion().choices
        return choices[0].text if choices else ""

    return list(await asyncio.gather(*(ask(i, task) for i, task in enumerate(asked))))


def run_shadow(arguments: argparse.Namespace) -> int:
    try:
        key = os.environ.get(ENV_KEY, "").strip()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"{arguments.url.rstrip('/')}/v1/router"
        answer = httpx.get(url, headers=headers, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        raise OSError(f"{arguments.url}: {error}") from None
    if answer.status_code == 401:
        raise OSError(f"{arguments.url} needs a key: set {ENV_KEY}, or ask its admin port")
    if answer.status_code != 200:
        raise OSError(f"{arguments.url}: {answer.status_code}; is it a gateway's admin port?")
    aliases = answer.json()["aliases"]
    shown = {name: state["shadow"] for name, state in aliases.items() if "shadow" in state}
    if not shown:
        print("no alias has a shadow: name one as router: {shadow: FOLDER}")
        return 1
    for name, state in shown.items():
        print(
            f"{name:<20} {state['requests']} requests, {state['agreed']:.1%} the same side; strong "
            f"share {state['strong_share_in_force']:.1%} in force, "
            f"{state['strong_share_shadow']:.1%} by {state['artifact']}"
        )
    return 0
