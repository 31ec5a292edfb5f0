"""What an operator's own server says it serves: a /v1/models reply, read. Pure.

vLLM adds `max_model_len` to each entry; a Tandem companion `context_length` and `features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.core.chat import Feature
from gateway.wire.upstream_json import Malformed, parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model of a server. `features` is None where the server does not say."""

    model: str
    context: int | None = None
    features: frozenset[Feature] | None = None
    created: int = 0


def served(body: bytes, model: str) -> Served | None:
    """The entry for `model`, or the first one if that is empty; None if there is no such entry.

    Raises Malformed.
    """
    entries = parse_object(body).get("data")
    if not isinstance(entries, list):
        raise Malformed("no `data` in the list of models")
    for entry in entries:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and name and model in ("", name):
            return _served(entry)
    return None


def _served(entry: dict[str, Any]) -> Served:
    lengths = (entry.get("context_length"), entry.get("max_model_len"))
    created = entry.get("created")
    return Served(
        model=entry["id"],
        context=next((n for n in lengths if type(n) is int and n > 0), None),
        features=_features(entry.get("features")),
        created=created if type(created) is int else 0,
    )


def _features(names: Any) -> frozenset[Feature] | None:
    if not isinstance(names, list):
        return None
    # A newer companion may know more than we do.
    return frozenset(feature for feature in Feature if feature.value in names)
