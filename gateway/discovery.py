"""Zero configuration: what is on this machine and in its environment, as a configuration.

Finds provider keys, servers on their usual loopback ports and GGUF files, and falls back to the
bundled pair so that every mode runs at once (DESIGN 7). Looks, and changes nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PROVIDERS = {
    "GROQ_API_KEY": ("groq", "llama-3.3-70b-versatile"),
    "OPENAI_API_KEY": ("openai", "gpt-4.1-mini"),
    "OPENROUTER_API_KEY": ("openrouter", "openrouter/auto"),
    "TOGETHER_API_KEY": ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
    "FIREWORKS_API_KEY": ("fireworks", "accounts/fireworks/models/llama-v3p3-70b-instruct"),
    "CEREBRAS_API_KEY": ("cerebras", "llama-3.3-70b"),
    "MISTRAL_API_KEY": ("mistral", "mistral-small-latest"),
}
"""variable → (kind, the model asked for until a configuration names another)"""

NEIGHBOURS = {"ollama": 11434, "vllm": 8000, "lmstudio": 1234}
PROBE_TIMEOUT_S = 0.4

WATTS = 15.0
"""What one busy core of a present processor draws, about; an answer's energy is marked estimated
where the machine does not show its counters."""

BUNDLED_TARGET: dict[str, Any] = {
    "kind": "llama_cpp",
    "zone": "machine",
    "tier": "cloud",
    "model": "bundled:target",
    "strict": True,
    "price": {"input": 0, "output": 0},
}
"""What the companion process serves."""

DRAFT, TARGET, PAIR = "tandem-demo-draft", "tandem-demo-target", "tandem-demo-pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A configuration as plain data, and the sentences that explain it.

    `needs_companion` says that the bundled target must be started; its address goes into the
    upstream named TARGET once it listens.
    """

    upstreams: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    needs_companion: bool = False
    default_zone: str = "public"


async def discover(
    env: Mapping[str, str],
    model_dir: Path,
    *,
    local_only: bool,
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
) -> Found:
    """Look around once. With `local_only`, keys and neighbours are ignored and zones closed."""
    upstreams: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    bundled = _local(upstreams, notes, model_dir)
    if local_only:
        notes.append("--local-only: provider keys and other servers are ignored")
    else:
        _providers(env, upstreams, notes)
        await _neighbours(upstreams, notes, transport)
    if bundled:
        upstreams[TARGET] = {
            "kind": "companion",
            "zone": "machine",
            "tier": "cloud",
            "model": TARGET,
            "price": {"input": 0, "output": 0},
            "watts": WATTS,
        }
        upstreams[PAIR] = {"kind": "speculative", "draft": DRAFT, "target": TARGET}
        notes.append(
            f"cloud: {TARGET} (7M parameters) stands in for a cloud, in a process of its own here"
        )
        notes.append(f"tandem: {DRAFT} drafts, {TARGET} verifies")
    return Found(
        upstreams=upstreams,
        notes=tuple(notes),
        needs_companion=bundled,
        default_zone="machine" if local_only else "public",
    )


def engine_available() -> bool:
    """Whether llama-cpp-python is installed; it is imported in the worker process only."""
    return importlib.util.find_spec("llama_cpp") is not None


def gguf_files(model_dir: Path) -> list[Path]:
    """The models in the folder, smallest first; later parts of a split file are left out."""
    if not model_dir.is_dir():
        return []
    files = [p for p in model_dir.glob("*.gguf") if "-of-" not in p.name or "-00001-of-" in p.name]
    return sorted(files, key=lambda path: (path.stat().st_size, path.name))


def _local(upstreams: dict[str, dict[str, Any]], notes: list[str], model_dir: Path) -> bool:
    """Adds the local upstream; True when it is the bundled draft."""
    if not engine_available():
        notes.append("local: off, llama-cpp-python is not installed (`make setup` says why)")
        return False
    files = gguf_files(model_dir)
    if files:
        chosen = files[0]
        name = chosen.stem.lower()
        upstreams[name] = {
            "kind": "llama_cpp",
            "zone": "machine",
            "model": str(chosen),
            "watts": WATTS,
        }
        notes.append(f"local: {chosen.name} from {model_dir}")
        if len(files) > 1:
            others = ", ".join(path.name for path in files[1:])
            notes.append(f"also there, not loaded without a configuration: {others}")
        return False
    upstreams[DRAFT] = {
        "kind": "llama_cpp",
        "zone": "machine",
        "model": "bundled:draft",
        "watts": WATTS,
    }
    notes.append(f"local: {DRAFT} (1.3M parameters, bundled: it shows the plumbing, not quality)")
    return True


def _providers(
    env: Mapping[str, str], upstreams: dict[str, dict[str, Any]], notes: list[str]
) -> None:
    for variable, (profile, model) in PROVIDERS.items():
        if env.get(variable):
            upstreams[profile] = {
                "kind": profile,
                "model": model,
                "api_key": env[variable],
            }
            notes.append(f"cloud: {profile} ({model}), key from {variable}: prompts may go there")


async def _neighbours(
    upstreams: dict[str, dict[str, Any]],
    notes: list[str],
    transport: Callable[[], httpx.AsyncBaseTransport] | None,
) -> None:
    client = httpx.AsyncClient(
        transport=transport() if transport else None,
        trust_env=False,
        timeout=PROBE_TIMEOUT_S,
        follow_redirects=False,
    )
    async with client:
        found = await asyncio.gather(*(_first_model(client, port) for port in NEIGHBOURS.values()))
    for (name, port), model in zip(NEIGHBOURS.items(), found, strict=True):
        if model is None:
            continue
        upstreams[name] = {
            "kind": name,
            "base_url": f"http://127.0.0.1:{port}/v1",
            "model": model,
        }
        notes.append(
            f"cloud: {name} on port {port} ({model}); it may be a tunnel, so its zone is public"
        )


async def _first_model(client: httpx.AsyncClient, port: int) -> str | None:
    """The first model a server on this port lists, or None if it is no such server."""
    try:
        response = await client.get(f"http://127.0.0.1:{port}/v1/models")
        data = response.json()["data"] if response.status_code == 200 else []
        return str(data[0]["id"]) if data else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
        return None
