"""What a session's `open` asks for, and which target it may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from backends.speculative.seams import Target
from backends.speculative.session import Open
from gateway.core.chat import ChatRequest, Endpoint, Feature
from gateway.core.errors import Forbidden, NotFound
from gateway.core.exchange import Caller
from gateway.dialects.base import Dialect
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions

_DIALECTS: Mapping[str, Dialect] = {"chat": OpenAIChat(), "completion": OpenAICompletions()}


def read_open(opening: Open, caller: Caller) -> ChatRequest:
    """What an `open` asks for, as HTTP would have read it. Raises RequestError."""
    if opening.request is not None:
        return _DIALECTS[opening.endpoint].decode(opening.request, {})
    # Token ids: the sampling fields ride beside them, under OpenAI's names.
    sampling = opening.sampling
    needs = {Feature.COMPLETION, Feature.TOKEN_PROMPT}
    asked = {
        Feature.TOP_K: sampling.top_k is not None,
        Feature.MIN_P: sampling.min_p is not None,
        Feature.SEED: sampling.seed is not None,
        Feature.PENALTIES: bool(sampling.frequency_penalty or sampling.presence_penalty),
    }
    if opening.coupling == "greedy":
        sampling = replace(sampling, temperature=0.0)
    return ChatRequest(
        endpoint=Endpoint.COMPLETION,
        dialect="session",
        model=opening.model,
        prompt=opening.prompt_ids,
        sampling=sampling,
        stream=True,
        features=frozenset(needs | {feature for feature, there in asked.items() if there}),
    )


def resolver(targets: Mapping[str, Target]) -> Callable[[str, Caller], Target]:
    """Targets by the names that a caller may give; with a single one, "" is enough.

    The key's models and zone bind here as they do over HTTP.
    """

    def resolve(model: str, caller: Caller) -> Target:
        if not model and len(targets) == 1:
            model = next(iter(targets))
        target = targets.get(model)
        if target is None:
            raise NotFound("This companion has no such model.", param="model")
        if not caller.may_name(model):
            raise Forbidden("This key may not use that model.", param="model")
        if not caller.zone.admits(target.upstream.zone):
            raise Forbidden("This key's zone does not reach that model.", param="model")
        return target

    return resolve
