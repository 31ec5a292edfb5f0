"""The exact cache's key: two requests share one only if their answers must be the same.

The key is a SHA-256 over length-prefixed parts, so that no two lists of parts run together. All
fields that can change an answer are in it; a field that is on neither list below makes the request
bypass the cache, because nobody has said yet what it does. Content is never normalised (case, NFC,
spaces: tokenizers differ); what counts as equal is exactly: key order, 1 and 1.0, and a scalar
`stop` beside a list of one. The order of a JSON schema's `properties` does count: structured output
comes in that order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.routing import Upstream, Zone

SCHEMA = b"tandem-exact-2"
"""Changes with anything that changes what a key covers or what an entry holds."""

LOCAL_ONLY = "m:"
"""Keys of machine-zone answers begin with this; such an entry never leaves the process."""

_SAMPLING = frozenset(
    "temperature top_p top_k min_p typical_p seed stop max_tokens frequency_penalty "
    "presence_penalty repetition_penalty repeat_penalty repeat_last_n dry_multiplier dry_base "
    "dry_allowed_length dry_penalty_last_n logit_bias ignore_eos min_tokens".split()
)
_KEYED: Mapping[str, frozenset[str]] = {
    "openai_chat": _SAMPLING
    | frozenset(
        "messages max_completion_tokens tools tool_choice parallel_tool_calls response_format "
        "reasoning_effort verbosity prediction n logprobs top_logprobs".split()
    ),
    "openai_completions": _SAMPLING | frozenset("prompt suffix n best_of logprobs echo".split()),
    "openai_embeddings": frozenset({"input", "dimensions"}),
    # The two time limits of llama.cpp cut an answer short, so they are no mere timeouts.
    "llama_server": _SAMPLING
    | frozenset(
        "input_prefix input_suffix input_extra prompt n_predict n_cmpl n_indent samplers "
        "t_max_prompt_ms t_max_predict_ms".split()
    ),
}
_EXCLUDED = frozenset(
    "model stream stream_options user metadata store service_tier safety_identifier "
    "prompt_cache_key prompt_cache_retention timeout request_timeout cache_prompt id_slot "
    "response_fields encoding_format".split()
)
"""Fields that change how an answer travels, not what it says. The resolved model has own parts."""

_AS_SENT = frozenset("messages prompt input input_extra".split())
"""Content: hashed as it came, short of key order, without a walk through what may be long."""

_NOT_KEPT = frozenset(
    {
        Feature.N,  # the kept form does not say which of several was whole
        Feature.PROMPT_LIST,
        Feature.LOGPROBS,  # Completion has no place for them
        Feature.ECHO,
        Feature.IMAGES,  # a URL's content may change under the same request
        Feature.AUDIO,
    }
)


def cache_key(
    request: ChatRequest,
    *,
    tenant: str,
    zone: Zone,
    epoch: str,
    upstream: Upstream,
    reuse_sampled: bool = False,
) -> str | None:
    """The request's key for one resolved upstream, or None if it must bypass the cache.

    `epoch` names the configuration the route was made under. A request that samples (temperature
    absent or above 0) without a seed bypasses unless `reuse_sampled`: its client asked for a fresh
    draw each time. Embeddings are not drawn.
    """
    body = request.body
    keyed = _KEYED.get(request.dialect)
    if keyed is None or not request.features.isdisjoint(_NOT_KEPT):
        return None
    sampling = request.sampling
    drawn = request.endpoint is not Endpoint.EMBEDDINGS and not sampling.greedy
    if drawn and sampling.seed is None and not reuse_sampled:
        return None
    fields = body.keys() - _EXCLUDED
    if not fields <= keyed:
        return None
    try:
        canonical = orjson.dumps(
            {name: _field(name, body[name]) for name in fields}, option=orjson.OPT_SORT_KEYS
        )
    except (_NotFinite, orjson.JSONEncodeError):
        return None
    digest = hashlib.sha256()
    for part in (
        SCHEMA,
        tenant.encode(),
        zone.label.encode(),
        epoch.encode(),
        upstream.name.encode(),
        upstream.kind.encode(),
        upstream.model.encode(),
        upstream.revision.encode(),
        request.endpoint.value.encode(),
        request.dialect.encode(),
        canonical,
    ):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return (LOCAL_ONLY if zone == Zone.MACHINE else "") + digest.hexdigest()


class _NotFinite(ValueError):
    """A number without JSON form. The border refuses them; orjson would write null."""


def _field(name: str, value: Any) -> Any:
    if name in _AS_SENT:
        return value
    if name == "stop" and isinstance(value, str):
        return [value]
    return _canonical(value, ordered=False)


def _canonical(value: Any, *, ordered: bool) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NotFinite
        # Below 2**53 a whole float and its integer are the same JSON number to every parser.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, list):
        return [_canonical(item, ordered=False) for item in value]
    if isinstance(value, dict):
        items = [(k, _canonical(item, ordered=k == "properties")) for k, item in value.items()]
        return {"in order": items} if ordered else dict(items)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What a client's Cache-Control header allows us to do."""

    read: bool = True
    write: bool = True
    only_if_cached: bool = False
    max_age_s: float | None = None

    def accepts(self, age_s: float) -> bool:
        """Whether an entry of this age may answer."""
        return self.max_age_s is None or age_s <= self.max_age_s


_NO_WISHES = Directives()


def directives(headers: Mapping[str, str]) -> Directives:
    """The request's wishes, as RFC 9111 5.2.1 has them. Header names are lower case.

    no-store: nothing is kept of this answer (a kept one may still be served). no-cache: a fresh
    answer, which is kept. Unknown directives are ignored; a malformed max-age counts as 0.
    """
    value = headers.get("cache-control")
    if not value:
        return _NO_WISHES
    names: set[str] = set()
    ages: list[float] = []
    for part in value.lower().split(","):
        name, _, argument = part.strip().partition("=")
        names.add(name.strip())
        if name.strip() == "max-age":
            digits = argument.strip().strip('"')
            ages.append(float(digits) if digits.isascii() and digits.isdigit() else 0.0)
    max_age_s = min(ages, default=None)
    return Directives(
        read="no-cache" not in names and max_age_s != 0.0,
        write="no-store" not in names,
        only_if_cached="only-if-cached" in names,
        max_age_s=max_age_s,
    )
