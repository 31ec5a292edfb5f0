"""What the README shows can be used as it stands."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import yaml

from backends import BACKENDS
from gateway.config import loads
from gateway.core.registry import load
from gateway.core.routing import Zone
from gateway.dialects import DIALECTS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_the_configuration_loads() -> None:
    """The real configuration is one: its kinds, zones and rules are what the text says."""
    (text,) = [block for block in blocks("yaml") if block.startswith("upstreams:")]
    config = loads(text, env={"GROQ_API_KEY": "fake"}, source="README.md")
    kinds = {name: options.kind for name, options in config.upstreams.items()}
    assert kinds == {"qwen2.5-coder": "llama_cpp", "groq": "groq", "office": "vllm"}
    assert set(kinds.values()) <= set(BACKENDS)
    assert config.upstreams["groq"].zone is Zone.PUBLIC
    assert config.aliases["auto"].candidates == ("qwen2.5-coder", "office", "groq")
    assert config.aliases["autocomplete"].deadline == 2.0
    assert [rule.name for rule in config.rules] == ["long", "patients"]
    assert "cloud" in config.aliases


def test_requests_decode() -> None:
    """The bodies of the curl lines are requests that their paths take."""
    shell = "\n".join(blocks("sh"))
    found = re.findall(r"127\.0\.0\.1:8080(/\S+) .*?-d '(\{.*?\})'(?=[;\n])", shell, flags=re.S)
    # The models of a fresh machine do not embed.
    assert {path for path, _ in found} == set(DIALECTS) - {"/v1/embeddings"}
    for path, body in found:
        parsed = json.loads(body.replace("""'"$1"'""", "local"))
        assert load(DIALECTS, path, what="path")().decode(parsed, {}).model in ("local", "auto")


def test_snippets_parse() -> None:
    """Python and YAML snippets are Python and YAML."""
    for block in blocks("python"):
        ast.parse(block)
    for block in blocks("yaml"):
        assert yaml.safe_load(block)


def test_links_lead_somewhere() -> None:
    """Every file the README links to is there."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
