"""The shape of a provider's facts: which parameters it honours, refuses or ignores, and the rest.

A request that needs a feature its upstream's profile lacks never reaches it (DESIGN 2.2), so when
in doubt a feature is left out: an operator who knows better adds it (`extra_features`). Fields
without a Feature go on, unless the provider would refuse the whole request for them; those are left
out. What is left out, and what a provider takes and does nothing with, the answer announces
(DESIGN 2.1): a parameter ignored in silence would be a lie of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from backends.rate_limits import Kind
from gateway.core.chat import Feature as F

NOTHING: Mapping[str, Any] = MappingProxyType({})
NO_WINDOWS: Mapping[Kind, str] = MappingProxyType({})

CORE_FIELDS = frozenset(
    "model messages prompt stream stream_options max_tokens max_completion_tokens temperature "
    "top_p stop".split()
)
"""What every server of this wire reads."""

FEATURE_FIELDS: Mapping[F, frozenset[str]] = MappingProxyType(
    {
        F.TOOLS: frozenset({"tools", "tool_choice"}),
        F.JSON_MODE: frozenset({"response_format"}),
        F.GRAMMAR: frozenset({"grammar"}),
        F.N: frozenset({"n"}),
        F.LOGPROBS: frozenset({"logprobs", "top_logprobs"}),
        F.LOGIT_BIAS: frozenset({"logit_bias"}),
        F.SPEECH: frozenset({"modalities", "audio"}),
        F.ECHO: frozenset({"echo"}),
        F.FIM: frozenset({"suffix"}),
        F.TOP_K: frozenset({"top_k"}),
        F.MIN_P: frozenset({"min_p"}),
        F.SEED: frozenset({"seed"}),
        F.PENALTIES: frozenset({"frequency_penalty", "presence_penalty"}),
        F.TYPICAL_P: frozenset({"typical_p"}),
        F.REPEAT_PENALTY: frozenset({"repeat_penalty", "repetition_penalty"}),
        F.DRY: frozenset(
            {"dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"}
        ),
        F.IGNORE_EOS: frozenset({"ignore_eos"}),
        F.MIN_TOKENS: frozenset({"min_tokens"}),
        F.EMBEDDINGS: frozenset({"input", "dimensions", "encoding_format"}),
    }
)
GUARDED_FIELDS = frozenset().union(*FEATURE_FIELDS.values())
"""Fields that a hard filter has looked at: what still arrives where the feature is missing has a
value that asks for nothing (`n: 1`, `logprobs: false`), and need not be announced."""


EMBEDDERS = ("embed", "bge-", "gte-", "e5-", "minilm", "m2-bert", "mpnet")
"""What names of embedding models have in them; for others there is `extra_features`."""


class Others(StrEnum):
    """What a server does with request fields that it does not know."""

    UNKNOWN = "unknown"  # documented nowhere, or told in a 400 of its own: they go on
    IGNORED = "ignored"  # it takes them in silence: they go on, and are announced
    REFUSED = "refused"  # it answers 400 or 422: they are left out, and announced


class Continuation(StrEnum):
    """How an upstream is asked to go on with an assistant message that has begun."""

    NONE = "none"
    TRAILING = "trailing"  # a last message of the assistant's is continued by itself
    FLAG = "continue_final_message"  # in the body, with add_generation_prompt false
    PREFIX = "prefix"  # that message carries prefix: true


class Surface(StrEnum):
    """What an upstream lends itself to in speculation: the ladder's rung to try on it."""

    NONE = "stream"
    COMPANION = "companion"
    ONE_SHOT = "one_shot"  # `prediction`: the answer as somebody expects it, sent along
    PREFIX_FANOUT = "prefix_fanout"  # lists of token ids as prompts, and a prefix cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicts:
    """How a provider takes `prediction`.

    `models` are the prefixes of those that do; () is every model. A request with one of `bars` in
    its body is refused together with a prediction. `counts`: usage says how much of it held.
    """

    models: tuple[str, ...] = ()
    bars: frozenset[str] = frozenset()
    counts: bool = True


class Reasoning(StrEnum):
    """Where a reasoning model's thoughts appear."""

    NONE = "none"
    CONTENT = "reasoning_content"
    FIELD = "reasoning"
    PARTS = "thinking parts"  # of a content that is a list
    INLINE = "inline"  # the text begins with `<think>…</think>`, which is taken out of it
    INLINE_OPEN = "inline_open"  # the same, where the prompt's template has written `<think>`


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider's facts.

    `renames` maps a client's body field to the provider's spelling of it. `defaults` are body
    fields set unless the client set them. `known` are fields beyond CORE_FIELDS and those of
    `features` that it honours; it matters where `others` is not unknown. `refuses` are fields whose
    mere presence is an error; `ignores` it takes without effect, and `model_ignores` does so for
    models of a name prefix.

    `stream_usage`: whether `stream_options.include_usage` is accepted; where it is not, usage comes
    by itself. `usage_paths`: where a chunk may report it. `reports_cost`: its usage says what the
    answer cost. `limit_windows`: what its rate-limit headers count over, where they do not say.

    `continues_at`: the end of the only address at which it takes a prefix. `repeats_prefix`: an
    answer that goes on with a prefix may say that prefix first.

    `legacy_models`: name prefixes that /completions serves; () is every model. `self_hosted`: an
    operator's own server, which may be asked what it serves; `health_path` is then polled, relative
    to the server's root. `versioned`: the API is always at `{root}/v1`, however the operator wrote
    the address.

    `embeddings`: what it honours for a model that embeds, which is known by its name (`embedders`),
    since no list of models says so; such a model does nothing else. `base64`: whether it may be
    asked for vectors in that form.

    `surface`: which rung of speculation to try there; `predicts` goes with ONE_SHOT.
    """

    name: str
    base_url: str | None = None
    features: frozenset[F] = frozenset({F.CHAT})
    renames: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    defaults: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    others: Others = Others.UNKNOWN
    known: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    ignores: frozenset[str] = frozenset()
    model_ignores: tuple[tuple[str, frozenset[str]], ...] = ()
    stream_usage: bool = True
    usage_paths: tuple[tuple[str, ...], ...] = (("usage",),)
    reports_cost: bool = False
    reasoning: Reasoning = Reasoning.NONE
    continuation: Continuation = Continuation.NONE
    continues_at: str = ""
    repeats_prefix: bool = False
    limit_windows: Mapping[Kind, str] = field(default_factory=lambda: NO_WINDOWS)
    legacy_models: tuple[str, ...] = ()
    self_hosted: bool = False
    health_path: str | None = None
    versioned: bool = False
    embeddings: frozenset[F] = frozenset()
    embedders: tuple[str, ...] = EMBEDDERS
    base64: bool = False
    surface: Surface = Surface.NONE
    predicts: Predicts = Predicts()

    def features_for(self, model: str) -> frozenset[F]:
        """What this provider honours for one of its models.

        A prediction changes no token of an answer: nobody is passed over for want of it, and
        whoever ignores or refuses it is told of as of any other field.
        """
        if self.embeddings and any(part in model.lower() for part in self.embedders):
            return self.embeddings
        legacy = not self.legacy_models or model.startswith(self.legacy_models)
        found = self.features if legacy else self.features - {F.COMPLETION, F.FIM, F.ECHO}
        return found | {F.PREDICTION}

    def ignored_for(self, model: str) -> frozenset[str]:
        """Fields without effect on one of its models, for the answer to announce."""
        by_model = (fields for prefix, fields in self.model_ignores if model.startswith(prefix))
        return frozenset().union(self.ignores, self.refuses - GUARDED_FIELDS, *by_model)

    @property
    def honoured(self) -> frozenset[str] | None:
        """All fields that have an effect, or None where fields we do not know may have one."""
        if self.others is Others.UNKNOWN:
            return None
        return CORE_FIELDS | GUARDED_FIELDS | self.known

    def gate(self, features: frozenset[F]) -> Gate:
        """Which body fields may be sent at all, to an upstream that has these features."""
        offered = frozenset().union(*(FEATURE_FIELDS.get(each, ()) for each in features))
        if self.others is not Others.REFUSED:
            return Gate(barred=self.refuses - offered)
        return Gate(
            barred=self.refuses - offered,
            only=CORE_FIELDS | offered | self.known | self.ignores,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The body fields that a provider would not refuse. `only` None: all but `barred`."""

    barred: frozenset[str] = frozenset()
    only: frozenset[str] | None = None

    def kept(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` without what the provider would refuse; the same object if nothing is."""
        fits = self.only is None or body.keys() <= self.only
        if fits and (not self.barred or self.barred.isdisjoint(body)):
            return body
        return {
            name: value
            for name, value in body.items()
            if name not in self.barred and (self.only is None or name in self.only)
        }
