"""Hard filters: what may serve, why the rest may not, and what the client is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling
from gateway.core.errors import (
    ContextExceeded,
    InvalidRequest,
    LocalUnavailable,
    Unavailable,
    Unsupported,
)
from gateway.core.exchange import Caller
from gateway.core.routing import Candidate, Rejection, Tier, Upstream, Zone
from gateway.filters import MIN_BITS, Reason, admit, ask_count, min_bits, refusal

CHAT = frozenset({Feature.CHAT})
ANYONE = Caller()
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def request(text: str = "hello", **changes: Any) -> ChatRequest:
    fields: dict[str, Any] = {
        "endpoint": Endpoint.CHAT,
        "dialect": "openai_chat",
        "model": "auto",
        "messages": (Message(role="user", text=text),),
        "features": CHAT,
    }
    return ChatRequest(**(fields | changes))


def candidate(name: str = "a", *, healthy: bool = True, **changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "kind": "x",
        "tier": Tier.LOCAL,
        "zone": Zone.MACHINE,
        "model": name,
        "features": CHAT,
    }
    return Candidate(upstream=Upstream(name=name, **(fields | changes)), healthy=healthy)


def reasons(asked: ChatRequest, *candidates: Candidate, **counted: int) -> dict[str, str]:
    _, rejected = admit(asked, candidates, Zone.PUBLIC, ANYONE, counted)
    return {rejection.upstream: rejection.reason for rejection in rejected}


def test_each_filter_names_its_reason() -> None:
    """Zone before features before health before context: the first failed is the reason."""
    asked = request("x" * 10, features=CHAT | {Feature.TOOLS})
    tools = CHAT | {Feature.TOOLS}
    found = admit(
        asked,
        [
            candidate("far", zone=Zone.PUBLIC, healthy=False),
            candidate("plain", healthy=False),
            candidate("down", features=tools, context=5, healthy=False),
            candidate("short", features=tools, context=5),
            candidate("good", features=tools),
        ],
        Zone.ORGANISATION,
        ANYONE,
        {"short": 10, "down": 10},
    )
    assert [each.upstream.name for each in found[0]] == ["good"]
    assert [(each.upstream, each.reason) for each in found[1]] == [
        ("far", Reason.ZONE),
        ("plain", Reason.FEATURE),
        ("down", Reason.HEALTH),
        ("short", Reason.CONTEXT),
    ]


def test_a_keys_zone_counts_whatever_is_passed() -> None:
    """A caller's own zone is held against the candidates once more."""
    public = [candidate("far", zone=Zone.PUBLIC)]
    kept, _ = admit(request(), public, Zone.PUBLIC, Caller(zone=Zone.MACHINE), {})
    assert kept == ()


@pytest.mark.parametrize(
    ("text", "context", "ceiling", "max_tokens", "expected"),
    [
        ("x" * 100, 1000, True, 100, False),
        ("x" * 900, 1000, True, 200, True),
        ("x" * 900, 1000, False, 200, True),
        ("x" * 5000, None, True, None, False),
        ("x" * 100, 1000, True, None, False),
    ],
)
def test_counting_is_asked_only_when_bytes_do_not_fit(
    text: str, context: int | None, ceiling: bool, max_tokens: int | None, expected: bool
) -> None:
    """Bytes bound tokens, so a prompt whose bytes fit with the answer needs no tokenizer."""
    asked = request(text, sampling=Sampling(max_tokens=max_tokens))
    one = candidate(context=context, prompt_ceiling=ceiling)
    assert ask_count(asked, one, Zone.PUBLIC) is expected


def test_unseen_prompt_text_is_counted() -> None:
    """Tools add tokens that `text_bytes` does not see: a local model's tokenizer is asked."""
    asked = request("x", features=CHAT | {Feature.TOOLS})
    local = candidate(features=CHAT | {Feature.TOOLS}, context=8192, prompt_ceiling=True)
    assert ask_count(asked, local, Zone.PUBLIC)


def test_what_a_filter_removes_is_not_counted() -> None:
    """No text is handed to the tokenizer of an upstream outside the zone."""
    far = candidate(zone=Zone.PUBLIC, context=10, prompt_ceiling=True)
    assert ask_count(request("x" * 100), far, Zone.PUBLIC)
    assert not ask_count(request("x" * 100), far, Zone.MACHINE)


def test_context_is_prompt_and_answer() -> None:
    """Exactly full fits; a prompt without room for a token does not; an uncounted one stays."""
    full = request(sampling=Sampling(max_tokens=20))
    small = candidate("a", context=100)
    assert reasons(full, small, a=80) == {}
    assert reasons(full, small, a=100) == {"a": Reason.CONTEXT}
    assert reasons(full, small) == {}


def test_room_for_the_whole_answer_is_preferred() -> None:
    """One more than full serves only where nothing has more room; the prompt is never cut."""
    asked = request(sampling=Sampling(max_tokens=20))
    small, large = candidate("a", context=100), candidate("b", context=1000)
    assert reasons(asked, small, large, a=81, b=81) == {"a": Reason.CONTEXT}
    assert reasons(asked, small, a=81) == {}


def test_infill_is_not_measured() -> None:
    """/infill leaves context out by its own rule, so its length is no reason to refuse."""
    asked = request("", endpoint=Endpoint.INFILL, prompt="x" * 1000, messages=())
    small = candidate("a", context=100, prompt_ceiling=True)
    assert not ask_count(asked, small, Zone.PUBLIC)
    assert reasons(asked, small, a=500) == {}


def test_nothing_in_the_zone() -> None:
    """If the zone took anything out, the answer is 503 local_unavailable, with what is inside."""
    candidates = [candidate("far", zone=Zone.PUBLIC), candidate("near", healthy=False)]
    _, rejected = admit(request(), candidates, Zone.MACHINE, ANYONE, {})
    error = refusal(request(), rejected)
    assert isinstance(error, LocalUnavailable)
    assert (error.status, error.code) == (503, "local_unavailable")
    assert "near is down" in error.message


def test_a_parameter_nobody_honours() -> None:
    """400 with the parameter's own name, a suffix's included."""
    for feature, param in [(Feature.LOGPROBS, "logprobs"), (Feature.FIM, "suffix")]:
        asked = request(features=CHAT | {feature})
        _, rejected = admit(asked, [candidate("a"), candidate("b")], Zone.PUBLIC, ANYONE, {})
        error = refusal(asked, rejected)
        assert isinstance(error, Unsupported)
        assert (error.status, error.param) == (400, param)
        assert f"`{param}`" in error.message


@pytest.mark.parametrize(
    ("feature", "param", "words"),
    [
        (Feature.PROMPT_LIST, "prompt", "several prompts in one request"),
        (Feature.IMAGES, "messages", "content parts beside text, such as images"),
        (Feature.TOKEN_INPUT, "input", "an `input` of token ids"),
        (Feature.EMBEDDINGS, "model", "embeddings requests"),
    ],
)
def test_what_is_no_parameter_is_named_in_words(feature: Feature, param: str, words: str) -> None:
    """The error names a field that the client sent, never one of our own features."""
    asked = request(features=frozenset({feature}))
    _, rejected = admit(asked, [candidate("a", features=CHAT)], Zone.PUBLIC, ANYONE, {})
    error = refusal(asked, rejected)
    assert error.param == param
    assert f"a does not take {words}" in error.message


def test_too_long() -> None:
    """400 context_length_exceeded; the parameter is the one that must shrink."""
    asked = request(sampling=Sampling(max_tokens=50))
    _, rejected = admit(asked, [candidate("a", context=100)], Zone.PUBLIC, ANYONE, {"a": 120})
    error = refusal(asked, rejected)
    assert isinstance(error, ContextExceeded)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert "170 were requested" in error.message


def test_what_could_serve_is_down() -> None:
    """503 to be retried, even where another candidate lacks a feature."""
    asked = request(features=CHAT | {Feature.TOOLS})
    able = candidate("able", features=CHAT | {Feature.TOOLS}, healthy=False)
    _, rejected = admit(asked, [candidate("unable"), able], Zone.PUBLIC, ANYONE, {})
    error = refusal(asked, rejected)
    assert isinstance(error, Unavailable)
    assert not isinstance(error, LocalUnavailable)
    assert error.retry_after is not None


def test_nobody_at_all() -> None:
    """An alias without upstreams is 503, not a crash."""
    assert isinstance(refusal(request(), ()), Unavailable)


FEATURES = st.frozensets(st.sampled_from(Feature), max_size=3)
CANDIDATES = st.lists(
    st.builds(
        lambda name, zone, features, context, ceiling, healthy: candidate(
            name,
            zone=zone,
            features=features,
            context=context,
            prompt_ceiling=ceiling,
            healthy=healthy,
        ),
        st.sampled_from("abcdef"),
        st.sampled_from(Zone),
        FEATURES,
        st.none() | st.integers(1, 50),
        st.booleans(),
        st.booleans(),
    ),
    unique_by=lambda each: each.upstream.name,
)


@patient
@given(
    candidates=CANDIDATES,
    features=FEATURES,
    zone=st.sampled_from(Zone),
    own=st.sampled_from(Zone),
    counted=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100)),
    max_tokens=st.none() | st.integers(1, 100),
)
def test_no_candidate_outside_the_zone_survives(
    candidates: list[Candidate],
    features: frozenset[Feature],
    zone: Zone,
    own: Zone,
    counted: dict[str, int],
    max_tokens: int | None,
) -> None:
    """Whatever comes in: what is kept is inside both zones and able, and each of the others has
    one reason from the closed list; with nothing kept there is an error to tell."""
    asked = request(features=features, sampling=Sampling(max_tokens=max_tokens))
    kept, rejected = admit(asked, candidates, zone, Caller(zone=own), counted)
    for each in kept:
        assert each.upstream.zone <= min(zone, own)
        assert each.upstream.features >= features
        assert each.healthy
    names = [each.upstream.name for each in kept] + [each.upstream for each in rejected]
    assert sorted(names) == sorted(each.upstream.name for each in candidates)
    assert all(each.reason in set(Reason) and each.detail for each in rejected)
    if not kept:
        outside = any(each.reason == Reason.ZONE for each in rejected)
        assert isinstance(refusal(asked, rejected), LocalUnavailable) is outside


def test_messages_hold_no_prompt() -> None:
    """What a client wrote does not come back in an error."""
    asked = request("CANARY", features=CHAT | {Feature.TOOLS})
    found: list[Rejection] = []
    for one in (candidate("a"), candidate("b", zone=Zone.PUBLIC), candidate("c", context=1)):
        found += admit(asked, [one], Zone.MACHINE, ANYONE, {"c": 9})[1]
    assert "CANARY" not in refusal(asked, found).message + str(found)


def test_a_demand_for_bits_takes_out_what_is_known_to_have_fewer() -> None:
    """A model quantized further goes, one that is fine enough or that nobody knows stays."""
    candidates = (candidate("q4", bits=4.85), candidate("q8", bits=8.5), candidate("remote"))
    kept, rejected = admit(request(), candidates, Zone.PUBLIC, ANYONE, {}, 8)
    assert [each.upstream.name for each in kept] == ["q8", "remote"]
    assert [(each.upstream, each.reason) for each in rejected] == [("q4", Reason.BITS)]
    kept, _ = admit(request(), candidates, Zone.PUBLIC, ANYONE, {})
    assert len(kept) == 3


def test_where_nothing_has_the_bits_the_header_is_named() -> None:
    """The client learns which header it was, what it demanded and what there is."""
    _, rejected = admit(request(), (candidate(bits=4.85),), Zone.PUBLIC, ANYONE, {}, 8)
    error = refusal(request(), rejected)
    assert isinstance(error, Unsupported)
    assert error.param == MIN_BITS
    assert "4.85" in error.message


@pytest.mark.parametrize("wished", ["many", "-1", "nan", "1e9", ""])
def test_a_demand_for_bits_is_never_guessed_at(wished: str) -> None:
    """A header that is no number of bits is refused, not ignored."""
    with pytest.raises(InvalidRequest):
        min_bits({MIN_BITS: wished})


def test_no_demand_for_bits() -> None:
    """Without the header nothing is demanded; 6.5 is a number of bits."""
    assert min_bits({}) is None
    assert min_bits({MIN_BITS: "6.5"}) == 6.5
