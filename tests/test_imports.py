"""Imports flow one way (STYLE section 4): this walks them and keeps it true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "backends", "router_policies")
CORE = ("gateway.core", "gateway.wire")

# Longest prefix wins. What a room may import of our own packages, besides itself.
ALLOWED: dict[str, tuple[str, ...]] = {
    "gateway.core": (),
    "gateway.wire": ("gateway.core",),
    "gateway.dialects": CORE,
    "gateway.cache": CORE,
    "gateway.limits": CORE,
    "gateway.resilience": (),
    "backends": (*CORE, "backends"),
    "router_policies": (*CORE, "router_policies"),
    "gateway.parameters": CORE,
    "gateway.conversations": CORE,
    "gateway.privacy": CORE,
    "gateway.tightened": CORE,
    "gateway.balance": CORE,
    "gateway.prefixes": CORE,
    "gateway.pace": (),
    "gateway.balancer": (*CORE, "gateway.balance", "gateway.pace", "gateway.prefixes"),
    "gateway.spill": CORE,
    "gateway.plan": (
        *CORE,
        "gateway.balance",
        "gateway.balancer",
        "gateway.conversations",
        "gateway.deadlines",
        "gateway.spill",
        "gateway.tightened",
        "router_policies.base",
        "router_policies.facts",
        "gateway.fleet",
        "gateway.filters",
        "gateway.names",
        "gateway.parameters",
        "gateway.privacy",
    ),
    "gateway.relay": (*CORE, "gateway.settle"),
    "gateway.pipeline": (
        *CORE,
        "gateway.cache.base",
        "gateway.cache.key",
        "gateway.admission",
        "gateway.fleet",
        "gateway.parameters",
        "gateway.plan",
        "gateway.relay",
        "gateway.resilience.retry_budget",
        "gateway.settle",
    ),
}
FORBIDDEN_LIBRARIES: dict[str, tuple[str, ...]] = {
    "gateway.core": (
        "httpx", "fastapi", "starlette", "pydantic", "redis", "prometheus_client", "numpy",
    ),
    "backends": ("fastapi", "starlette", "redis", "prometheus_client"),
    "router_policies": ("fastapi", "starlette", "redis", "prometheus_client", "httpx"),
    "gateway.plan": ("fastapi", "starlette", "redis", "prometheus_client", "httpx"),
    "gateway.pipeline": ("fastapi", "starlette", "redis", "prometheus_client", "httpx"),
}  # fmt: skip
LLAMA_CPP_HOMES = (
    "backends.engine.llama",
    "backends.engine.offline",
)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found.append((dotted.removesuffix(".__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from package import module` means the module, and not what else the package imports.
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                names.add(dotted if is_module(dotted) else node.module)
    return names


def is_module(dotted: str) -> bool:
    path = ROOT / dotted.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize(
    ("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_imports_flow_one_way(module: str, path: Path) -> None:
    """A room imports only the rooms below it, and no library it must not know."""
    room = max((r for r in ALLOWED if under(module, r)), key=len, default=None)
    for name in imports(path):
        if room and any(under(name, package) for package in PACKAGES) and not under(name, room):
            assert any(under(name, ok) for ok in ALLOWED[room]), f"{module} imports {name}"
        for place, libraries in FORBIDDEN_LIBRARIES.items():
            if under(module, place):
                assert name.split(".")[0] not in libraries, f"{module} imports {name}"


def test_no_cycle() -> None:
    """Module-level imports of our own packages have no cycle."""
    known = dict(modules())
    graph = {m: {n for n in imports(p) if n in known and n != m} for m, p in known.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module in done:
            return
        for name in graph[module]:
            visit(name, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_llama_cpp_stays_in_its_process() -> None:
    """Only modules of the worker and helper processes import llama_cpp (DESIGN 4)."""
    for module, path in modules():
        if any(name.split(".")[0] == "llama_cpp" for name in imports(path)):
            at_home = any(under(module, home) for home in LLAMA_CPP_HOMES)
            assert at_home or under(module, "backends.engine.demo_pair"), module
