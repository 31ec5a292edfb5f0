"""Prefix fan-out on the wire: k+1 prompts of token ids in one request, one token from each. Pure.

    [x]  [x d₁]  [x d₁ d₂]  …  [x d₁ … d_k]     →     y₀ y₁ y₂ … y_k

y_i is what the target itself says after x d₁…d_i, by its own sampler. As far as y_i = d_{i+1} the
next y counts too; the first that differs is the correction, and if none does y_k came for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.speculative.strategies.base import Surprise
from gateway.core.chat import Usage
from gateway.wire.openai_usage import usage_of

MOST_IDS = 64 * 1024
"""Ids in one request: beyond it, writing the prefix down costs more than drafts bring."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "logit_bias", "user")
"""Body fields that mean for one token what they mean for an answer."""


@dataclass(frozen=True, slots=True)
class Said:
    """One prompt's next token; `ends` if it is the answer's end."""

    token: int
    ends: bool


@dataclass(frozen=True, slots=True)
class Round:
    said: tuple[Said, ...]
    usage: Usage


def common(body: Mapping[str, Any]) -> dict[str, Any]:
    """Of a plain request's body what each of these requests shares with it."""
    shared = {name: body[name] for name in ("model", *SAMPLING) if body.get(name) is not None}
    return {**shared, "return_token_ids": True}


def round_body(
    shared: Mapping[str, Any], prefix: Sequence[int], drafts: Sequence[int]
) -> dict[str, Any]:
    prompts = [[*prefix, *drafts[:width]] for width in range(len(drafts) + 1)]
    return {**shared, "prompt": prompts, "max_tokens": 1}


def rest_body(shared: Mapping[str, Any], prefix: Sequence[int], left: int) -> dict[str, Any]:
    """For what is left of the answer, as a plain stream."""
    return {
        **shared,
        "prompt": list(prefix),
        "max_tokens": left,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def width_for(prefix: int, wished: int) -> int:
    """How many drafts go along with a prefix so long; -1: none of it should go at all."""
    return min(wished, MOST_IDS // max(1, prefix) - 1)


def read_round(document: Mapping[str, Any], prompts: int) -> Round:
    """One token for each prompt, in the prompts' order. Raises Surprise."""
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != prompts:
        raise Surprise("wrong-counts")
    by_index = {c.get("index"): c for c in choices if isinstance(c, dict)}
    if by_index.keys() != set(range(prompts)):
        raise Surprise("shape")
    said = []
    for index in range(prompts):
        tokens = token_ids(by_index[index])
        if len(tokens) != 1:
            raise Surprise("wrong-counts")
        said.append(Said(tokens[0], by_index[index].get("finish_reason") == "stop"))
    usage = usage_of(document)
    if usage is None:
        raise Surprise("no-usage")
    return Round(tuple(said), usage)


def token_ids(holder: Mapping[str, Any], name: str = "token_ids") -> list[int]:
    """A list of ids. Raises Surprise if there is none."""
    found = holder.get(name)
    if not isinstance(found, list) or not all(type(each) is int and each >= 0 for each in found):
        raise Surprise("no-token-ids")
    return found


def settled(round_: Round, drafts: Sequence[int]) -> list[Said]:
    """What of a round is the answer's."""
    kept: list[Said] = []
    for index, said in enumerate(round_.said):
        kept.append(said)
        if said.ends or index == len(drafts) or said.token != drafts[index]:
            break
    return kept
