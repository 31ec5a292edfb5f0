"""What a model name that a client asks for stands for: an alias's upstreams, or one by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.core.errors import NotFound
from gateway.core.exchange import Caller
from gateway.core.registry import suggest


class Listed(Protocol):
    """What is needed of an alias here."""

    @property
    def candidates(self) -> tuple[str, ...]: ...


class Known(Protocol):
    """What is needed of the fleet here: whether it has an upstream of that name."""

    def __contains__(self, name: str, /) -> bool: ...


def resolve(
    model: str, aliases: Mapping[str, Listed], upstreams: Known, caller: Caller
) -> tuple[str | None, tuple[str, ...]]:
    """The alias that a model name stands for, and its upstreams; (None, (name,)) for a pin.

    Raises NotFound, in the same words whether a name does not exist or is not the caller's.
    """
    if caller.may_name(model):
        if model in aliases:
            return model, aliases[model].candidates
        if model in upstreams:
            return None, (model,)
    shown = model if len(model) <= 100 else model[:100] + "…"
    close = suggest(model[:100], [alias for alias in aliases if caller.may_name(alias)])
    hint = close.replace("; did", " Did") if close.startswith("; did") else ""
    raise NotFound(
        f"The model `{shown}` does not exist or you do not have access to it.{hint}",
        param="model",
        code="model_not_found",
    )
