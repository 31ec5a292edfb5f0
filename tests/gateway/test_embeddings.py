"""Embeddings on their way through the gateway: decoded, filtered, kept."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cache.base import Entry
from gateway.cache.codec import decode, encode
from gateway.cache.key import cache_key
from gateway.cache.memory import text_bytes
from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature, Usage
from gateway.core.errors import ContextExceeded, InvalidRequest, Unsupported
from gateway.core.events import Document, replay
from gateway.core.exchange import Caller
from gateway.core.routing import Candidate, Zone
from gateway.dialects.openai_embeddings import MAX_INPUTS, OpenAIEmbeddings
from gateway.filters import admit, ask_count, refusal
from gateway.wire import vectors
from router_policies.facts import facts
from tests.fakes.scripted import upstream


def asking(given: Any, **more: Any) -> ChatRequest:
    return OpenAIEmbeddings().decode({"model": "m", "input": given, **more}, {})


@pytest.mark.parametrize(
    ("given", "inputs", "of_tokens"),
    [
        ("hi", ("hi",), False),
        (["a", "b"], ("a", "b"), False),
        ([1, 2], ((1, 2),), True),
        ([[1], [2, 3]], ((1,), (2, 3)), True),
    ],
)
def test_the_four_forms_of_input(given: Any, inputs: tuple[Any, ...], of_tokens: bool) -> None:
    """A text, texts, token ids, lists of token ids; ids are an upstream feature."""
    request = asking(given, dimensions=8, user="u")
    assert (request.endpoint, request.inputs, request.dimensions) == (
        Endpoint.EMBEDDINGS,
        inputs,
        8,
    )
    assert (Feature.TOKEN_INPUT in request.features) == of_tokens
    assert request.extra == {"user": "u"}


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        [],
        [""],
        ["a", ""],
        [[]],
        [[1], []],
        [1, "a"],
        [[1], "a"],
        [True],
        [-1],
        [1.5],
        {"a": 1},
        ["a"] * (MAX_INPUTS + 1),
    ],
)
def test_what_cannot_be_embedded(given: Any) -> None:
    """An empty input, a mixture or too many are a 400 that names `input`."""
    with pytest.raises(InvalidRequest) as caught:
        asking(given)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("field", "value"), [("encoding_format", "int8"), ("dimensions", 0), ("stream", True)]
)
def test_other_fields_are_checked(field: str, value: Any) -> None:
    """A format we do not have, no dimensions, or a stream: a 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        asking("a", **{field: value})
    assert caught.value.param == field


def test_a_model_that_does_not_embed() -> None:
    """The 400 for a model that only generates names `model`; ids where none go name `input`."""
    chat = Candidate(upstream=upstream("chat", features=frozenset({Feature.CHAT})))
    texts = Candidate(upstream=upstream("texts", features=frozenset({Feature.EMBEDDINGS})))
    for request, candidate, param in ((asking("a"), chat, "model"), (asking([1]), texts, "input")):
        kept, rejected = admit(request, [candidate], Zone.PUBLIC, Caller(), {})
        error = refusal(request, rejected)
        assert not kept
        assert isinstance(error, Unsupported)
        assert error.param == param


def test_each_input_has_the_context_for_itself() -> None:
    """Many short inputs need no counting; one that is too long is named, and nothing is cut."""
    candidate = Candidate(upstream=upstream("e", context=512, prompt_ceiling=True))
    many, long = asking(["a" * 400] * 100), asking(["a", "b" * 2000])
    assert not ask_count(many, candidate, Zone.PUBLIC)
    assert ask_count(long, candidate, Zone.PUBLIC)
    assert admit(many, [candidate], Zone.PUBLIC, Caller(), {})[0]
    assert admit(long, [candidate], Zone.PUBLIC, Caller(), {"e": 512})[0]
    kept, rejected = admit(long, [candidate], Zone.PUBLIC, Caller(), {"e": 513})
    error = refusal(long, rejected)
    assert not kept
    assert isinstance(error, ContextExceeded)
    assert (error.code, error.param) == ("context_length_exceeded", "input")
    assert "completion" not in error.message


def test_rules_see_them() -> None:
    """`endpoint` is embeddings, and the bytes of all inputs count."""
    known = facts(asking(["ab", "cde"]), Caller(), {}, ())
    assert (known["endpoint"], known["prompt_bytes"], known["last_user_bytes"]) == (
        "embeddings",
        5,
        5,
    )


def key_of(request: ChatRequest, **more: Any) -> str | None:
    given: dict[str, Any] = {"tenant": "t", "zone": Zone.PUBLIC, "epoch": "e", **more}
    return cache_key(request, upstream=upstream("e"), **given)


def test_the_key_is_what_decides_the_vector() -> None:
    """Input and dimensions, not the format or the user; another tenant has another key."""
    plain = key_of(asking("a"))
    assert plain is not None
    assert plain == key_of(asking("a", encoding_format="base64", user="u"))
    others = [asking("b"), asking(["a"]), asking([1]), asking("a", dimensions=2)]
    assert len({plain, key_of(asking("a"), tenant="u"), *map(key_of, others)}) == 6
    assert key_of(asking("a", unknown=1)) is None


def test_what_is_kept_comes_back() -> None:
    """An entry's vectors survive the form that leaves the process, and are replayed whole."""
    kept = Completion(vectors=(vectors.pack([0.1] * 64),) * 3, usage=Usage(prompt_tokens=4))
    entry = Entry(completion=kept, upstream="e", model="m", stored_at=1.0, cost_usd=None)
    assert decode(encode(entry)).completion == kept
    assert replay(kept) == [Document(completion=kept)]
    assert text_bytes(kept) > 3 * 256
