"""Typed reading of a parsed body: a field is right, absent, or a 400 that names it.

null counts as absent, as OpenAI's servers have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import InvalidRequest

Body = Mapping[str, Any]

# Fields that would let a client steer our connection to an upstream or another tenant's state
# there (DESIGN 2.1).
DENIED = frozenset(
    "api_base base_url extra_headers chat_template chat_template_kwargs cache_salt priority "
    "kv_transfer_params vllm_xargs request_id".split()
)


def refuse_denied(body: Body) -> None:
    """Raises InvalidRequest for a field that only an operator may set."""
    for name in DENIED.intersection(body):
        raise InvalidRequest(
            f"{name!r} may not be set by a client of this gateway.",
            param=name,
            code="parameter_not_allowed",
        )


def model(body: Body) -> str:
    """The model that is asked for. Raises InvalidRequest if none is named."""
    name = text(body, "model")
    if not name:
        raise InvalidRequest("You must name a model.", param="model", code="missing_model")
    return name


def wrong_type(name: str, wanted: str, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"{name!r} must be {wanted}, not {_kind(value)}.", param=name, code="invalid_type"
    )


def number(body: Body, name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a number", value)
    if not low <= value <= high:
        raise InvalidRequest(f"{name!r} must be from {low:g} to {high:g}.", param=name)
    return float(value)


def integer(body: Body, name: str, low: int, high: int = 2**63 - 1) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if not low <= value <= high:
        top = f" to {high}" if high < 2**63 - 1 or value > high else " or more"
        raise InvalidRequest(f"{name!r} must be {low}{top}.", param=name)
    return value


def boolean(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false", value)
    return value


def text(body: Body, name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def strings(body: Body, name: str, *, at_most: int) -> tuple[str, ...]:
    """A string or a list of strings; empty strings are refused, since they match everywhere."""
    value = body.get(name)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise wrong_type(name, "a string or a list of strings", value)
    if len(values) > at_most:
        raise InvalidRequest(f"{name!r} holds more than {at_most} strings.", param=name)
    if "" in values:
        raise InvalidRequest(f"{name!r} holds an empty string.", param=name)
    return tuple(values)


def objects(body: Body, name: str) -> list[Mapping[str, Any]]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong_type(name, "a list of objects", value)
    return value


def mapping(body: Body, name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "a number" if isinstance(value, float) else "null")
