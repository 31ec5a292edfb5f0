"""Token counts and prices in an answer, by the names that providers have for them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.chat import Usage
from gateway.wire.upstream_json import details, integer


def usage_of(
    document: Mapping[str, Any], paths: tuple[tuple[str, ...], ...] = (("usage",),)
) -> Usage | None:
    """The token counts at the first of `paths` that has any. What counts nothing is no count: an
    answer would cost nothing then, where it could have been guessed.
    """
    for path in paths:
        found: Any = document
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and _counts(found):
            return _usage(found)
    return None


def _counts(usage: dict[str, Any]) -> bool:
    told = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return any(integer(each, -1) >= 0 for each in told) or _cost(usage.get("cost")) is not None


_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def _usage(usage: dict[str, Any]) -> Usage:
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    counted = integer(prompt, 0), integer(completion, 0)
    if usage.keys() <= _COUNTS:
        return Usage(prompt_tokens=counted[0], completion_tokens=counted[1])
    prompt_details = details(usage, "prompt_tokens_details")
    completion_details = details(usage, "completion_tokens_details")
    return Usage(
        prompt_tokens=counted[0],
        completion_tokens=counted[1],
        cached_tokens=_first(
            prompt_details.get("cached_tokens"),
            usage.get("prompt_cache_hit_tokens"),  # DeepSeek
            usage.get("cached_tokens"),  # Together, Moonshot
            usage.get("num_cached_tokens"),  # Mistral
        ),
        reasoning_tokens=_first(
            completion_details.get("reasoning_tokens"),
            usage.get("reasoning_tokens"),  # Perplexity
        ),
        cost_usd=_cost(usage.get("cost")),
        accepted_prediction_tokens=integer(completion_details.get("accepted_prediction_tokens"), 0),
        rejected_prediction_tokens=integer(completion_details.get("rejected_prediction_tokens"), 0),
    )


def _cost(cost: Any) -> float | None:
    """OpenRouter's `cost`, a number, or Perplexity's, an object with a `total_cost`."""
    total = cost.get("total_cost") if isinstance(cost, dict) else cost
    if isinstance(total, bool) or not isinstance(total, int | float) or total < 0:
        return None
    return float(total)


def _first(*counts: Any) -> int:
    """The first of several spellings that has a count, else 0."""
    for each in counts:
        if each and (count := integer(each, 0)):
            return count
    return 0
