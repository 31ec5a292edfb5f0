"""What `tandem serve` prints before the first request: what there is, and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway import __version__
from gateway.app import Gateway
from gateway.core.routing import Zone
from gateway.discovery import Found
from gateway.limits.keys import ENV_KEY

MODES = ("local", "cloud", "tandem", "auto")
WIDTH = 22


def announce(gateway: Gateway, found: Found | None, port: int, env: Mapping[str, str]) -> None:
    """Print it all to standard output."""
    print("\n".join(lines(gateway, found, port, env)), flush=True)


def lines(gateway: Gateway, found: Found | None, port: int, env: Mapping[str, str]) -> list[str]:
    host = gateway.config.server.host
    base = f"http://{reachable(host)}:{port}"
    shown = [f"Tandem {__version__} on {base}", ""]
    if found is not None:
        shown += ["found:", *(f"  {note}" for note in found.notes), ""]
    shown += ["upstreams:", *_upstreams(gateway), "", *_reach(gateway), ""]
    aliases = [mode for mode in MODES if mode in gateway.config.aliases]
    if aliases:
        shown += ["try:", *(f"  {curl(base, mode, bool(gateway.keys))}" for mode in aliases), ""]
    else:
        shown += [
            "no model is available: set a provider key, put a GGUF file into the model folder,",
            "or write a configuration (deploy/gateway.example.yaml)",
            "",
        ]
    if gateway.keys:
        shown.append(f"a key is needed ({ENV_KEY} or `keys:`); replace $KEY above")
    return shown


def reachable(host: str) -> str:
    """The host of a URL that reaches a listener on `host` from this machine."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _upstreams(gateway: Gateway) -> list[str]:
    health = gateway.fleet.health()
    shown = []
    for upstream in gateway.fleet.upstreams():
        state = health[upstream.name]
        context = f"{upstream.context} tokens" if upstream.context else "context unknown"
        words = [upstream.tier.value, upstream.zone.label, context]
        if not state.ok:
            words.append(f"DOWN: {state.detail}")
        shown.append(f"  {upstream.name:<{WIDTH}} {', '.join(words)}")
    return shown


def _reach(gateway: Gateway) -> list[str]:
    """Where prompts may go, said before any does."""
    widest = gateway.config.privacy.default
    reached = [u.name for u in gateway.fleet.upstreams() if widest.admits(u.zone)]
    outside = [u.name for u in gateway.fleet.upstreams() if u.zone > Zone.MACHINE]
    leaving = [name for name in outside if name in reached]
    if not leaving:
        return ["prompts stay on this machine"]
    return [f"prompts may leave this machine, to: {', '.join(leaving)}"]


def curl(base: str, model: str, keyed: bool) -> str:
    """One line to paste."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is Tandem?"}],
        "max_tokens": 64,
        "stream": True,
    }
    key = " -H 'Authorization: Bearer '$KEY" if keyed else ""
    return (
        f"curl -sN {base}/v1/chat/completions -H 'Content-Type: application/json'{key}"
        f" -d '{json.dumps(body)}'"
    )
