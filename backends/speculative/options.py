"""A config entry of kind speculative, and what its target lends itself to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from backends.base import Options
from backends.engine.protocol import MAX_DRAFT
from backends.openai import OpenAIBackend
from backends.profiles import Profile, Surface
from gateway.core import quantity


class SpeculativeOptions(Options):
    """A config entry of kind speculative.

    `draft` names an upstream of kind llama_cpp (for one_shot any), `target` a companion or another
    server of OpenAI's wire. Beside a companion `draft` can be left out: what costs nothing still
    drafts, `ngram` by looking up what followed the same tokens before. `strategy` is how the target
    is used: auto takes what its kind lends itself to (companion; one_shot for OpenAI, Cerebras and
    Mistral; prefix_fanout for vLLM), another name is tried on any server, by a probe that costs at
    most 300 tokens. `ahead` bounds the draft's lead in tokens; without it a companion's round trip
    decides. `draft_for` is what a one_shot draft may take before the target is asked. `always`
    drafts even where it does not pay.
    """

    draft: str | None = None
    target: str
    strategy: Literal["auto", "companion", "one_shot", "prefix_fanout"] = "auto"
    ahead: int | None = Field(default=None, ge=1, le=MAX_DRAFT)
    draft_for: Annotated[float, BeforeValidator(quantity.duration), Field(gt=0, le=60)] = 0.5
    ngram: bool = True
    always: bool = False


def wished(options: SpeculativeOptions, profile: Profile) -> Surface:
    return profile.surface if options.strategy == "auto" else Surface(options.strategy)


def surface_of(name: str, options: SpeculativeOptions, target: OpenAIBackend) -> Surface:
    """What the target is used as. Raises ValueError if nothing is known to work there."""
    found = wished(options, target.profile)
    if found is Surface.NONE:
        raise ValueError(f"upstream {name!r}: nothing is known of its target that drafts could use")
    if found is not Surface.COMPANION and options.draft is None:
        raise ValueError(f"upstream {name!r}: only a companion is drafted for without a `draft`")
    if found is Surface.COMPANION and target.options.base_url is None:
        raise ValueError(f"upstream {name!r}: its target must be of kind companion")
    return found
