"""Hard filters: what may serve a request at all, before any policy ranks what is left. Pure.

They are not policies and cannot be left out of a configuration (DESIGN 2.2, 2.3). The order is
zone, features, approximate, bits, health, context: the first that a candidate fails is its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from gateway.core.chat import ChatRequest, Endpoint, Feature, input_bytes
from gateway.core.errors import (
    ContextExceeded,
    InvalidRequest,
    LocalUnavailable,
    TandemError,
    Unavailable,
    Unsupported,
)
from gateway.core.exchange import Caller
from gateway.core.routing import Candidate, Rejection, Zone
from gateway.parameters import ignored_fields, switched


class Reason(StrEnum):
    """Why a candidate was taken out: the closed list, in the order of the filters."""

    ZONE = "zone"
    FEATURE = "feature"
    APPROXIMATE = "approximate"
    BITS = "bits"
    HEALTH = "health"
    CONTEXT = "context"


WORDS: Mapping[Feature, str] = {
    Feature.CHAT: "chat requests",
    Feature.COMPLETION: "completion requests",
    Feature.EMBEDDINGS: "embeddings requests",
    Feature.IMAGES: "content parts beside text, such as images",  # and parts that we do not know
    Feature.AUDIO: "audio",
    Feature.FIM: "`suffix`",
    Feature.PROMPT_LIST: "several prompts in one request",
    Feature.TOKEN_PROMPT: "a `prompt` of token ids",
    Feature.TOKEN_INPUT: "an `input` of token ids",
}
"""What a client asked for, where it is not a parameter of the feature's own name."""

MIN_BITS = "x-tandem-min-bits"
"""The header by which a request refuses models that are quantized further than it says."""

EXACT = "x-tandem-exact"
"""The header by which a request refuses approximate modes."""

UNCOUNTED = frozenset({Feature.TOOLS, Feature.JSON_MODE, Feature.IMAGES, Feature.AUDIO})
"""Features that put tokens into a prompt which `text_bytes` does not see."""

TURN_OVERHEAD = 32
"""Tokens a chat template may add per message (role, markers) and once at the end; ChatML adds 5."""


def ask_count(request: ChatRequest, candidate: Candidate, zone: Zone) -> bool:
    """Whether only the model's own tokenizer can tell if the request fits this candidate.

    False for most requests: tokens never exceed rendered bytes for byte-level vocabularies, so a
    prompt whose bytes fit needs no counting.
    """
    upstream = candidate.upstream
    if _refused(request, candidate, zone) is not None or upstream.context is None:
        return False
    if request.endpoint is Endpoint.INFILL:
        return False
    bound = _token_bound(request)
    if not upstream.prompt_ceiling and bound is None:
        return False  # a remote model's tools and images: its own server counts them
    return bound is None or bound + _wanted_tokens(request) > upstream.context


def admit(
    request: ChatRequest,
    candidates: Sequence[Candidate],
    zone: Zone,
    caller: Caller,
    counted: Mapping[str, int],
    min_bits: float | None = None,
    *,
    strict: bool = False,
    exact: bool = False,
) -> tuple[tuple[Candidate, ...], tuple[Rejection, ...]]:
    """What may serve the request, in the given order, and why the others may not.

    `zone` is the request's; the key's own is held against it once more. `counted` has the exact
    prompt tokens by upstream, for those that `ask_count` asked about. One that could not be counted
    stays: its own server refuses what is too long, and nothing truncates. `min_bits` takes out what
    is known to have fewer bits a weight; what remote models have, nobody says, so they stay.
    `strict` takes out what would ignore a part of the request, `exact` approximate modes.
    """
    zone = min(zone, caller.zone)
    kept: list[Candidate] = []
    tight: list[Candidate] = []
    rejected: list[Rejection] = []
    for candidate in candidates:
        rejection = (
            _refused(request, candidate, zone)
            or (_heedless(request, candidate) if strict else None)
            or (_inexact(candidate) if exact else None)
            or _too_coarse(candidate, min_bits)
            or _down(candidate)
            or _too_long(request, candidate, counted)
        )
        if rejection is None:
            kept.append(candidate)
            continue
        rejected.append(rejection)
        if rejection.param == "max_tokens":
            tight.append(candidate)
    if kept or not tight:
        return tuple(kept), tuple(rejected)
    # Editors ask for thousands of tokens and want a few: an answer that ends with `length` where
    # the context does is better than none. Only the prompt is never cut.
    names = {candidate.upstream.name for candidate in tight}
    return tuple(tight), tuple(r for r in rejected if r.upstream not in names)


def refusal(
    request: ChatRequest, rejected: Sequence[Rejection], found: Sequence[str] = ()
) -> TandemError:
    """The error for a request of which nothing is left.

    If a zone took something out, that is the answer (DESIGN 2.3). Else the rejection that came
    closest to serving speaks: down, then too long, then lacking a feature. `found` are the kinds of
    private data that tightened the zone.
    """
    by_reason = {reason: [r for r in rejected if r.reason == reason] for reason in Reason}
    if by_reason[Reason.ZONE]:
        inside = [r for r in rejected if r.reason != Reason.ZONE]
        why = f" Inside it: {_details(inside)}." if inside else ""
        seen = f" The privacy detector saw: {', '.join(found)}." if found else ""
        return LocalUnavailable(
            "Nothing inside the zone that this request may reach can serve it." + seen + why
        )
    if by_reason[Reason.HEALTH]:
        return Unavailable(
            f"Nothing that can serve this request is up: {_details(by_reason[Reason.HEALTH])}.",
            code="no_healthy_upstream",
            retry_after=max(1.0, min(r.rests_s for r in by_reason[Reason.HEALTH])),
        )
    if by_reason[Reason.CONTEXT]:
        first = by_reason[Reason.CONTEXT][0]
        details = _details(by_reason[Reason.CONTEXT])
        return ContextExceeded(f"The request is too long: {details}.", param=first.param)
    if by_reason[Reason.FEATURE]:
        first = by_reason[Reason.FEATURE][0]
        details = _details(by_reason[Reason.FEATURE])
        return Unsupported(
            f"No upstream for this model can honour the request: {details}.", param=first.param
        )
    if by_reason[Reason.APPROXIMATE]:
        details = _details(by_reason[Reason.APPROXIMATE])
        return Unsupported(f"An exact answer is not to be had here: {details}.", param=EXACT)
    if by_reason[Reason.BITS]:
        return Unsupported(
            f"Every model here is quantized further: {_details(by_reason[Reason.BITS])}.",
            param=MIN_BITS,
        )
    return Unavailable(f"No upstream stands behind the model {request.model[:100]!r}.")


def _refused(request: ChatRequest, candidate: Candidate, zone: Zone) -> Rejection | None:
    upstream = candidate.upstream
    if not zone.admits(upstream.zone):
        return Rejection(
            upstream=upstream.name,
            reason=Reason.ZONE,
            detail=f"{upstream.name} is in the zone {upstream.zone.label},"
            f" the request stays in {zone.label}",
        )
    missing = sorted(request.features - upstream.features)
    if missing:
        asked = [WORDS.get(feature, f"`{feature.value}`") for feature in missing]
        return Rejection(
            upstream=upstream.name,
            reason=Reason.FEATURE,
            detail=f"{upstream.name} does not take {', '.join(asked)}",
            param=missing[0].param,
        )
    return None


def _heedless(request: ChatRequest, candidate: Candidate) -> Rejection | None:
    name = candidate.upstream.name
    ignored = ignored_fields(request, candidate.upstream)
    if not ignored:
        return None
    return Rejection(
        upstream=name,
        reason=Reason.FEATURE,
        detail=f"{name} ignores {', '.join(f'`{each}`' for each in ignored)}",
        param=ignored[0],
    )


def _inexact(candidate: Candidate) -> Rejection | None:
    upstream = candidate.upstream
    if not upstream.approximate:
        return None
    return Rejection(
        upstream=upstream.name,
        reason=Reason.APPROXIMATE,
        detail=f"{upstream.name} is approximate ({upstream.kind})",
        param=EXACT,
    )


def _too_long(
    request: ChatRequest, candidate: Candidate, counted: Mapping[str, int]
) -> Rejection | None:
    upstream = candidate.upstream
    tokens = counted.get(upstream.name)
    if upstream.context is None or tokens is None or request.endpoint is Endpoint.INFILL:
        return None
    wanted = _wanted_tokens(request)
    if tokens + wanted <= upstream.context:
        return None
    if request.endpoint is Endpoint.EMBEDDINGS:
        return Rejection(
            upstream=upstream.name,
            reason=Reason.CONTEXT,
            detail=f"{upstream.name} takes {upstream.context} tokens in one input, and the longest"
            f" has {tokens}",
            param="input",
        )
    # The prompt alone fits: it is the answer's length that the client has to change.
    over_by_answer = tokens + 1 <= upstream.context
    prompt = "messages" if request.endpoint is Endpoint.CHAT else "prompt"
    return Rejection(
        upstream=upstream.name,
        reason=Reason.CONTEXT,
        detail=f"{upstream.name} holds {upstream.context} tokens, and {tokens + wanted} were"
        f" requested ({tokens} in the {prompt}, {wanted} in the completion)",
        param="max_tokens" if over_by_answer else prompt,
    )


def wants_exact(headers: Mapping[str, str]) -> bool:
    """Whether a request refuses approximate modes. Raises InvalidRequest."""
    return switched(headers, EXACT, default=False)


def min_bits(headers: Mapping[str, str]) -> float | None:
    """The bits a weight that a request demands, or None. Raises InvalidRequest."""
    wished = headers.get(MIN_BITS)
    if wished is None:
        return None
    try:
        bits = float(wished)
    except ValueError:
        bits = -1.0
    if not 0 <= bits <= 64:
        raise InvalidRequest(f"The header {MIN_BITS} must be a number of bits.", param=MIN_BITS)
    return bits


def _too_coarse(candidate: Candidate, wished: float | None) -> Rejection | None:
    upstream = candidate.upstream
    if wished is None or upstream.bits is None or upstream.bits >= wished:
        return None
    return Rejection(
        upstream=upstream.name,
        reason=Reason.BITS,
        detail=f"{upstream.name} has {upstream.bits:g} bits a weight, and {wished:g} were demanded",
        param=MIN_BITS,
    )


def _down(candidate: Candidate) -> Rejection | None:
    if candidate.healthy:
        return None
    name = candidate.upstream.name
    return Rejection(
        upstream=name, reason=Reason.HEALTH, detail=f"{name} is down", rests_s=candidate.rests_s
    )


def last_hope(
    candidates: Sequence[Candidate], rejected: Sequence[Rejection]
) -> tuple[Candidate, ...]:
    """The one to ask when everything that could serve is down: a probe before its time.

    Only of what was rejected for its health, so no zone and no feature is given up for it.
    """
    down = {r.upstream for r in rejected if r.reason == Reason.HEALTH}
    hopes = [c for c in candidates if c.probe and c.upstream.name in down]
    hopes.sort(key=lambda c: c.rests_s)
    return tuple(replace(hope, healthy=True) for hope in hopes[:1])


def _token_bound(request: ChatRequest) -> int | None:
    """At least as many tokens as the rendered prompt can have, or None if bytes cannot tell."""
    if request.features & UNCOUNTED:
        return None
    if isinstance(request.prompt, tuple):
        return len(request.prompt) + TURN_OVERHEAD
    if request.inputs:
        return max(map(input_bytes, request.inputs)) + TURN_OVERHEAD
    roles = sum(4 * len(message.role) for message in request.messages)
    return request.text_bytes + roles + TURN_OVERHEAD * (len(request.messages) + 1)


def _wanted_tokens(request: ChatRequest) -> int:
    if request.endpoint is Endpoint.EMBEDDINGS:
        return 0
    return 1 if request.sampling.max_tokens is None else request.sampling.max_tokens


def _details(rejected: Sequence[Rejection]) -> str:
    return "; ".join(rejection.detail for rejection in rejected)
