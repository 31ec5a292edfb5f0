"""Few modules can open a connection, and this is the list: what is not on it cannot leak."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "backends", "router_policies")

DOORS = {
    "backends.http1": "the one HTTP client of upstreams, behind the zone check of backends.http",
    "backends.http2": "the same where an upstream speaks HTTP/2, behind the same check",
    "backends.speculative.client": "sessions with a companion, behind a zone check of their own",
    "backends.speculative.transport": "opens those sessions' sockets",
    "backends.speculative.backend": "opens its sessions there",
    "backends.http": "makes that client",
    "backends.openai": "has one, for its own upstream",
    "gateway.generation": "makes one for a detector's hook, which is on this machine (loopback)",
    "gateway.cache.redis": "answers of the machine zone are not given to it (cache/tiered.py)",
    "gateway.discovery": "looks at three ports of this machine, before any request",
    "gateway.cli.demo": "asks the gateway that it has started itself",
    "gateway.cli.demo_ask": "the same",
    "gateway.cli.bench": "measures, with prompts of its own",
    "gateway.cli.models_pull": "fetches model files when told to",
    "backends.engine.process": "a socket pair with its own worker",
}
CLIENTS = frozenset(
    "AsyncClient Client HTTPTransport AsyncHTTPTransport create_connection open_connection connect "
    "connect_ex create_unix_connection open_unix_connection sock_connect urlopen HTTPConnection "
    "HTTPSConnection ClientSession from_url sendto create_datagram_endpoint "
    "default_transport http2_transport Http1Transport Http2Transport".split()
)


def called(tree: ast.AST) -> set[str]:
    """The names of what a module calls or derives from."""
    names: set[str] = set()
    for node in ast.walk(tree):
        reached = [node.func] if isinstance(node, ast.Call) else []
        reached += node.bases if isinstance(node, ast.ClassDef) else []
        for each in reached:
            if isinstance(each, ast.Attribute):
                names.add(each.attr)
            elif isinstance(each, ast.Name):
                names.add(each.id)
    return names


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            dotted = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found[dotted.removesuffix(".__init__")] = path
    return found


def test_only_the_doors_open_connections() -> None:
    """No module beside these calls what opens a connection."""
    for module, path in modules().items():
        opens = called(ast.parse(path.read_text())) & CLIENTS
        assert not opens or module in DOORS, f"{module} calls {sorted(opens)}"


def test_every_door_is_still_one() -> None:
    """The list has no name of what is gone."""
    assert set(DOORS) <= set(modules())
