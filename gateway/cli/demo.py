"""`tandem demo`: a real request through each mode, and what happened, as a table."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import httpx

from gateway.cli.arguments import add_model_dir, default_model_dir
from gateway.cli.demo_ask import FRESH, Answer, ask, client
from gateway.cli.demo_print import BUNDLED, Row, as_json, comparison, table
from gateway.cli.demo_ratio import TOKENS, Comparison, compare

READY_WITHIN_S = 60.0
ALL_UP_WITHIN_S = 30.0
LEAVE_WITHIN_S = 40.0
MODES = ("local", "cloud", "tandem", "auto")
QUESTION = "What is Tandem?"
BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
LIMIT = 48

Say: TypeAlias = Callable[[str], None]


class NotRunning(Exception):
    """The gateway did not come up, or is not where it was said to be. A sentence for people."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="send a real request through each mode")
    parser.add_argument("--base-url", help="a running gateway; without it one is started")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--local-only", action="store_true", help="nothing leaves this machine")
    add_model_dir(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    say = _silent if arguments.json else _aloud
    try:
        with started(arguments, say) as base_url, client(base_url) as http:
            return show(http, say, as_data=arguments.json)
    except NotRunning as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def show(http: httpx.Client, say: Say, *, as_data: bool) -> int:
    """Ask, print, and return the exit status: 0 if all modes that are there answered."""
    cards = ready(http)
    # A card's own upstream bears its name; the rest are aliases.
    leaving = [n for n, c in cards.items() if c["upstreams"] == [n] and c["zone"] != "machine"]
    if leaving:
        say(f"prompts may leave this machine: {', '.join(leaving)}")
    say(f"asking {', '.join(mode for mode in MODES if mode in cards)}: {QUESTION!r}\n")
    rows = _rows(http, cards)
    say("\n".join(table(rows)))
    found = _compare(http, cards, rows, say)
    if as_data:
        print(json.dumps(as_json(rows, found)))
    routes = {str(row.answer.record.get("upstream")) for row in rows if row.answer}
    machine = all(cards[name]["zone"] == "machine" for name in ("cloud", "tandem") if name in cards)
    bundled = any(route.startswith(BUNDLED) for route in routes)
    say("\n" + "\n".join(comparison(found, bundled=bundled, shared=machine)))
    answered = any(row.answer for row in rows) and not any(row.failed for row in rows)
    return 0 if answered else 1


def _rows(http: httpx.Client, cards: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    chat = {"messages": [{"role": "user", "content": QUESTION}]}
    plain = {"max_tokens": LIMIT, "temperature": 0}
    rows = []
    for mode in MODES:
        if mode in cards:
            body = {"model": mode, **chat, **plain}
            rows.append(Row(mode=mode, answer=ask(http, "/v1/chat/completions", body, FRESH)))
        else:
            rows.append(Row(mode=mode, absent="no upstream stands behind it"))
    filler = next((m for m in ("local", "auto") if _fills(cards.get(m))), None)
    if filler is None:
        absent = "no upstream fills in the middle (`suffix`)"
        rows += [Row(mode="suffix", absent=absent), Row(mode="infill", absent=absent)]
    else:
        body = {"model": filler, "prompt": BEFORE, "suffix": AFTER, **plain}
        rows.append(Row(mode="suffix", answer=ask(http, "/v1/completions", body, FRESH)))
        body = {"model": filler, "input_prefix": BEFORE, "input_suffix": AFTER}
        body |= {"n_predict": LIMIT, "temperature": 0}
        rows.append(Row(mode="infill", answer=ask(http, "/infill", body, FRESH)))
    again = next((mode for mode in MODES if mode in cards), None)
    if again is not None:
        body = {"model": again, **chat, **plain}
        rows.append(Row(mode="again", answer=ask(http, "/v1/chat/completions", body, {})))
    return rows


def _compare(
    http: httpx.Client, cards: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], say: Say
) -> Comparison | str:
    """Compare `tandem` with a name that leads to its very target, and with nothing else."""
    answers = {row.mode: row.answer or Answer(error=row.absent) for row in rows}
    if answers["tandem"].error:
        return f"`tandem` did not answer ({answers['tandem'].error})"
    target = str(answers["tandem"].record.get("upstream_model"))
    if answers["cloud"].record.get("upstream_model") == target:
        plain = "cloud"
    elif target in cards:
        plain = target
    else:
        return f"`cloud` is another model than the target of `tandem` ({target})"
    say(f"\nmeasuring what drafting brings ({TOKENS} tokens, greedy, both ways in turn) ...")
    return compare(http, plain, "tandem")


def _fills(card: Mapping[str, Any] | None) -> bool:
    return card is not None and bool(card["capabilities"]["completion_fim"])


def ready(http: httpx.Client) -> dict[str, Mapping[str, Any]]:
    """The models there are, by name, once all upstreams are up or enough time has gone."""
    deadline = time.monotonic() + ALL_UP_WITHIN_S
    while True:
        try:
            state = http.get("/readyz")
            up = state.status_code == 200
            if up and not state.json()["upstreams_down"]:
                break
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise NotRunning(f"no gateway answers at {http.base_url}: {error}") from None
        if time.monotonic() > deadline:
            if up:
                break
            raise NotRunning(f"the gateway at {http.base_url} has no upstream that is up")
        time.sleep(0.1)
    found = http.get("/v1/models")
    if found.status_code != 200:
        raise NotRunning(f"GET /v1/models answers {found.status_code}: {found.text[:200]}")
    return {str(card["id"]): card for card in found.json()["data"]}


@contextmanager
def started(
    arguments: argparse.Namespace, say: Say, *, config: Path | None = None
) -> Iterator[str]:
    """The address of the gateway to ask; one is started, and stopped again, if none was named."""
    if arguments.base_url:
        yield arguments.base_url.rstrip("/").removesuffix("/v1")
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    if arguments.model_dir != default_model_dir():  # which need not exist, and is its default too
        command += ["--model-dir", str(arguments.model_dir)]
    command += ["--local-only"] if arguments.local_only else []
    command += ["-c", str(config)] if config is not None else []
    base_url = f"http://127.0.0.1:{port}"
    say(f"starting a gateway on {base_url} ...")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _await(process, base_url, output)
            yield base_url
        finally:
            process.terminate()
            try:
                process.wait(LEAVE_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], base_url: str, output: IO[str]) -> None:
    """Wait until /readyz says ready. Raises NotRunning with the gateway's last words."""
    deadline = time.monotonic() + READY_WITHIN_S
    with httpx.Client(base_url=base_url, timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if http.get("/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.05)
    output.seek(0)
    raise NotRunning("the gateway did not become ready; it said:\n" + output.read()[-2000:])


def _aloud(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    """With --json nothing but the JSON is printed."""
