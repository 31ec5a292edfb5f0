"""Which fields of a request an upstream does nothing with: announced, or refused in strict mode.

`x-tandem-ignored` lists them (DESIGN 2.1). A request with the header `x-tandem-strict-parameters`,
or any where the configuration says so, goes to no upstream that would ignore a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.core.chat import ChatRequest
from gateway.core.errors import InvalidRequest
from gateway.core.routing import Upstream

STRICT = "x-tandem-strict-parameters"

# Fields that change nothing about the answer, so that not passing them on is nothing to announce.
IDLE_FIELDS = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention "
    "prompt_cache_options stream_options cache_prompt id_slot samplers t_max_prompt_ms "
    "t_max_predict_ms n_indent".split()
)
CARRIED_DIALECTS = frozenset({"openai_chat", "openai_completions", "openai_embeddings"})
"""Client wires that an upstream can speak too; a body in another is written anew for it."""
_PRINTABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WORDS = {"1": True, "true": True, "0": False, "false": False}


def ignored_fields(request: ChatRequest, upstream: Upstream) -> tuple[str, ...]:
    """Fields that will not reach the model's server, or do nothing there, in order.

    Their names come from the client and go into a response header, so only plain ones are shown.
    """
    if upstream.carries_body and request.dialect in CARRIED_DIALECTS:
        names = _without_effect(request.body, upstream)
    else:
        names = set(request.extra)
    if not names:
        return ()
    return tuple(name for name in sorted(names - IDLE_FIELDS) if _PRINTABLE.fullmatch(name))


def strict(headers: Mapping[str, str], default: bool) -> bool:
    """Whether a request wants all of its fields honoured. Raises InvalidRequest."""
    return switched(headers, STRICT, default=default)


def switched(headers: Mapping[str, str], name: str, *, default: bool) -> bool:
    """What a header that is on or off says. Raises InvalidRequest: a wish is never guessed at."""
    wish = headers.get(name)
    if wish is None:
        return default
    if (answer := _WORDS.get(wish.strip().lower())) is None:
        raise InvalidRequest(f"The header {name} must be true or false.", param=name)
    return answer


def _without_effect(body: Mapping[str, object], upstream: Upstream) -> set[str]:
    honours, ignores = upstream.honours, upstream.ignores
    if ignores.isdisjoint(body) and (honours is None or body.keys() <= honours):
        return set()  # nearly every request
    return {
        name
        for name, value in body.items()
        if value is not None  # a null asks for nothing
        and (name in ignores or (honours is not None and name not in honours))
    }
