"""What we know of each provider of the OpenAI wire: facts in a frozen table, not subclasses.

A request that needs a feature its upstream's profile lacks never reaches it (DESIGN 2.2). Fields
without a Feature are carried through, and the upstream itself may refuse them. So when in doubt a
feature is left out: an operator who knows better adds it (`extra_features`), while a parameter
that an upstream ignores in silence would be a lie of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from gateway.core.chat import Feature as F

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider's facts.

    `renames` maps a client's body field to the provider's spelling of it. `defaults` are body
    fields set unless the client set them. `stream_usage`: whether `stream_options.include_usage`
    is accepted; where it is not, usage comes by itself. `usage_paths`: where a chunk may report
    it. `legacy_models`: name prefixes that /completions serves; () is every model.
    `self_hosted`: an operator's own server, which may be asked what it serves; `health_path` is
    then polled, relative to the server's root. `versioned`: the API is always at `{root}/v1`,
    however the operator wrote the address.
    """

    name: str
    base_url: str | None = None
    features: frozenset[F] = frozenset({F.CHAT})
    renames: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    defaults: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    stream_usage: bool = True
    usage_paths: tuple[tuple[str, ...], ...] = (("usage",),)
    legacy_models: tuple[str, ...] = ()
    self_hosted: bool = False
    health_path: str | None = None
    versioned: bool = False

    def features_for(self, model: str) -> frozenset[F]:
        """What this provider honours for one of its models."""
        legacy = not self.legacy_models or model.startswith(self.legacy_models)
        return self.features if legacy else self.features - {F.COMPLETION, F.FIM, F.ECHO}


def _table(*profiles: Profile) -> Mapping[str, Profile]:
    return MappingProxyType({profile.name: profile for profile in profiles})


_BASIC = frozenset({F.CHAT, F.TOOLS, F.JSON_MODE})
_OLD_LIMIT = MappingProxyType({"max_completion_tokens": "max_tokens"})
_REPETITION = MappingProxyType({"repeat_penalty": "repetition_penalty"})

PROFILES: Mapping[str, Profile] = _table(
    Profile(
        name="openai",
        base_url="https://api.openai.com/v1",
        features=_BASIC
        | {F.COMPLETION, F.FIM, F.ECHO, F.TOKEN_PROMPT}
        | {F.IMAGES, F.SPEECH, F.N, F.LOGPROBS, F.LOGIT_BIAS, F.SEED, F.PENALTIES},
        legacy_models=("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002"),
    ),
    Profile(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        # 400 on logprobs, logit_bias and n; penalties are accepted, but no model honours them.
        # Temperature 0 it turns into 1e-8 by itself. No legacy completions.
        features=_BASIC | {F.SEED},
        usage_paths=(("usage",), ("x_groq", "usage")),
    ),
    Profile(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        features=_BASIC
        | {F.COMPLETION, F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}
        | {F.REPEAT_PENALTY},
        renames=_REPETITION,
        # Left alone, it routes to providers that ignore what they do not know.
        defaults=MappingProxyType({"provider": {"require_parameters": True}}),
    ),
    Profile(
        name="together",
        base_url="https://api.together.xyz/v1",
        # logprobs is a number there, another form than OpenAI's: left out
        features=_BASIC | {F.COMPLETION, F.N, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES},
        renames=_OLD_LIMIT,
    ),
    Profile(
        name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        features=_BASIC
        | {F.COMPLETION, F.ECHO, F.TOKEN_PROMPT, F.N}
        | {F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES},
        renames=_OLD_LIMIT,
    ),
    Profile(
        name="cerebras",
        base_url="https://api.cerebras.ai/v1",
        features=_BASIC | {F.COMPLETION, F.LOGPROBS, F.SEED},
    ),
    Profile(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        features=_BASIC | {F.N, F.SEED, F.PENALTIES},
        renames=MappingProxyType({**_OLD_LIMIT, "seed": "random_seed"}),
        # 422 on any member it does not know; the finishing chunk has usage by itself.
        stream_usage=False,
    ),
    Profile(
        name="vllm",
        # No `suffix` (400). Images depend on the model, which an operator knows.
        features=_BASIC
        | {F.COMPLETION, F.ECHO, F.TOKEN_PROMPT, F.N, F.LOGPROBS, F.LOGIT_BIAS}
        | {F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}
        | {F.REPEAT_PENALTY, F.IGNORE_EOS, F.MIN_TOKENS},
        renames=_REPETITION,
        self_hosted=True,
        health_path="/health",
        versioned=True,
    ),
    Profile(
        name="companion",
        # Until it has said itself what it can do, in /v1/models.
        features=frozenset({F.CHAT, F.COMPLETION, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}),
        self_hosted=True,
        health_path="/readyz",
        versioned=True,
    ),
    Profile(
        name="generic",
        # llama.cpp's own fields go through, GBNF too: of such servers many are llama.cpp's.
        features=_BASIC
        | {F.COMPLETION, F.SEED, F.PENALTIES, F.GRAMMAR}
        | {F.TYPICAL_P, F.REPEAT_PENALTY, F.DRY, F.IGNORE_EOS, F.MIN_TOKENS},
        # Several small servers ignore the newer name in silence, and write without end.
        renames=_OLD_LIMIT,
        self_hosted=True,
    ),
)


def profile_for(kind: str, base_url: str | None, profile: str | None) -> Profile:
    """The profile named, else the kind's own, else the one whose address it is.

    `kind: openai` at somebody else's address means "speaks OpenAI's wire", hence generic. Raises
    KeyError for a profile that is not in the table.
    """
    if profile is not None:
        return PROFILES[profile]
    if kind != "openai":
        return PROFILES.get(kind, PROFILES["generic"])
    if base_url is None:
        return PROFILES["openai"]
    host = urlsplit(base_url).hostname
    for known in PROFILES.values():
        if known.base_url is not None and urlsplit(known.base_url).hostname == host:
            return known
    return PROFILES["generic"]
