"""Renders conversations with the very template that goes into the GGUF files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

ANSWER_STARTS = "<|im_start|>assistant\n"
ANSWER_ENDS = "<|im_end|>"


def template_text() -> str:
    return (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


def render(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    *,
    generate: bool = False,
    sort_keys: bool = False,
) -> str:
    """The prompt text; `sort_keys` is how Jinja's own `tojson` prints, unlike Hugging Face's."""
    text: str = _template(sort_keys).render(
        messages=messages, tools=tools, add_generation_prompt=generate
    )
    return text


@cache
def _template(sort_keys: bool) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(
        value, ensure_ascii=False, sort_keys=sort_keys
    )
    return environment.from_string(template_text())


def answers(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether the assistant wrote it (its end marker included)."""
    pieces: list[tuple[str, bool]] = []
    while text:
        before, starts, rest = text.partition(ANSWER_STARTS)
        if not starts:
            pieces.append((before, False))
            break
        answer, ends, text = rest.partition(ANSWER_ENDS)
        pieces.append((before + starts, False))
        pieces.append((answer + ends, True))
    return pieces
