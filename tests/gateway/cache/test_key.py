"""The exact key: what must share one, what must not, and what bypasses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cache.key import LOCAL_ONLY, Directives, cache_key, directives
from gateway.core.chat import ChatRequest
from gateway.core.errors import InvalidRequest
from gateway.core.routing import Tier, Upstream, Zone
from gateway.dialects.llama_server import Infill
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.wire import strict

VECTORS = Path(__file__).parents[4] / "shared/data/cache/key_vectors_dev.jsonl.gz"

BASE: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 64,
}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "number"}}}


def upstream(name: str = "big", model: str = "big-1", revision: str = "r1") -> Upstream:
    return Upstream(
        name=name, kind="openai", tier=Tier.CLOUD, zone=Zone.PUBLIC, model=model, revision=revision
    )


def key_of(request: ChatRequest, **context: Any) -> str | None:
    around: dict[str, Any] = {
        "tenant": "t1",
        "zone": Zone.PUBLIC,
        "epoch": "1",
        "upstream": upstream(),
        **context,
    }
    return cache_key(request, **around)


def chat_key(body: dict[str, Any], **context: Any) -> str | None:
    return key_of(OpenAIChat().decode(body, {}), **context)


def with_tool(parameters: dict[str, Any]) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return {**BASE, "tools": [tool]}


SAME = {
    "key order": (BASE, dict(reversed(BASE.items()))),
    "message key order": (
        BASE,
        {**BASE, "messages": [dict(reversed(m.items())) for m in BASE["messages"]]},
    ),
    "1 and 1.0": (
        {**BASE, "top_p": 1, "frequency_penalty": 1},
        {**BASE, "top_p": 1.0, "frequency_penalty": 1.0},
    ),
    "stop scalar and list": ({**BASE, "stop": "\n"}, {**BASE, "stop": ["\n"]}),
    "streamed or whole": (
        BASE,
        {**BASE, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "telemetry": (
        BASE,
        {**BASE, "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"},
    ),
    "routing hints": (BASE, {**BASE, "safety_identifier": "x", "prompt_cache_key": "y"}),
    "the alias asked for": (BASE, {**BASE, "model": "big"}),
    "schema key order outside properties": (
        with_tool(SCHEMA),
        with_tool(dict(reversed(SCHEMA.items()))),
    ),
}
DIFFERENT = {
    "case": ({"content": "A"}, {"content": "a"}),
    "trailing space": ({"content": "a"}, {"content": "a "}),
    "composed and decomposed": ({"content": "caf\u00e9"}, {"content": "cafe\u0301"}),
    "role": ({"role": "user", "content": "a"}, {"role": "system", "content": "a"}),
    "text and the digits of a number": ({"content": "1"}, {"content": "1.0"}),
}
CHANGES: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 65},
    "top_p": {"top_p": 0.9},
    "seed": {"seed": 1},
    "stop": {"stop": "x"},
    "penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 1}},
    "response_format": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    "tool_choice": {"tool_choice": "none"},
    "reasoning_effort": {"reasoning_effort": "low"},
}


@pytest.mark.parametrize("name", SAME)
def test_same_key(name: str) -> None:
    """Requests that differ only in form share a key."""
    one, other = SAME[name]
    assert chat_key(one) is not None
    assert chat_key(one) == chat_key(other)


@pytest.mark.parametrize("name", DIFFERENT)
def test_content_is_never_normalised(name: str) -> None:
    """The smallest difference in content makes another key."""
    one, other = (
        chat_key({**BASE, "messages": [{"role": "user", **message}]}) for message in DIFFERENT[name]
    )
    assert one != other


@pytest.mark.parametrize("name", CHANGES)
def test_fields_that_shape_the_answer_are_in_the_key(name: str) -> None:
    """Each output-affecting field makes another key."""
    changed = chat_key({**BASE, **CHANGES[name]})
    assert changed is not None
    assert changed != chat_key(BASE)


def test_the_order_of_schema_properties_counts() -> None:
    """Structured output comes in the schema's order, so another order is another answer."""
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}  # type: ignore[attr-defined]
    assert chat_key(with_tool(SCHEMA)) != chat_key(with_tool(turned))


@pytest.mark.parametrize(
    "context",
    [
        {"tenant": "t2"},
        {"zone": Zone.ORGANISATION},
        {"zone": Zone.MACHINE},
        {"epoch": "2"},
        {"upstream": upstream(name="other")},
        {"upstream": upstream(model="big-2")},
        {"upstream": upstream(revision="r2")},
    ],
    ids=str,
)
def test_where_it_was_answered_is_in_the_key(context: dict[str, Any]) -> None:
    """Tenant, zone, policy epoch, upstream, model and revision each separate keys."""
    assert chat_key(BASE, **context) != chat_key(BASE)


def test_parts_do_not_run_together() -> None:
    """Moving a character from one part of the key to the next makes another key."""
    one = chat_key(BASE, tenant="ab", upstream=upstream(name="c"))
    other = chat_key(BASE, tenant="a", upstream=upstream(name="bc"))
    assert one != other
    early = chat_key(BASE, upstream=upstream(model="mr", revision="1"))
    late = chat_key(BASE, upstream=upstream(model="m", revision="r1"))
    assert early != late


def test_machine_zone_keys_are_marked() -> None:
    """Only a machine-zone key has the prefix that keeps its entry out of Redis."""
    machine, public = chat_key(BASE, zone=Zone.MACHINE), chat_key(BASE)
    assert machine is not None
    assert public is not None
    assert machine.startswith(LOCAL_ONLY)
    assert not public.startswith(LOCAL_ONLY)


@pytest.mark.parametrize(
    "change",
    [
        {"x_new_param": 1},
        {"x_new_param": None},
        {"temperature": 0.7},
        {"temperature": None},
        {"n": 2},
        {"logprobs": True},
        {"web_search_options": {}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"prediction": {"content": float("nan")}},
    ],
    ids=str,
)
def test_bypass(change: dict[str, Any]) -> None:
    """Unknown fields, sampling without a seed, and what an entry cannot hold have no key."""
    assert chat_key({**BASE, **change}) is None


def test_a_seed_or_a_wish_makes_sampling_cacheable() -> None:
    """A sampled request has a key when it is seeded, or when its route reuses samples."""
    sampled = {**BASE, "temperature": 0.7}
    assert chat_key({**sampled, "seed": 5}) is not None
    assert chat_key(sampled, reuse_sampled=True) is not None
    absent = {key: value for key, value in BASE.items() if key != "temperature"}
    assert chat_key(absent) is None


def test_endpoints_do_not_share() -> None:
    """Completions and infill have keys of their own; a FIM suffix counts."""
    plain = {"model": "m", "prompt": "a", "temperature": 0}
    infill = {"input_prefix": "a", "input_suffix": "", "temperature": 0}
    keys = [
        key_of(OpenAICompletions().decode(plain, {})),
        key_of(OpenAICompletions().decode({**plain, "suffix": "b"}, {})),
        key_of(OpenAICompletions().decode({**plain, "suffix": ""}, {})),
        key_of(Infill().decode(infill, {})),
        key_of(Infill().decode({**infill, "input_extra": [{"text": "x"}]}, {})),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        (None, Directives()),
        ("", Directives()),
        ("no-store", Directives(write=False)),
        ("no-cache", Directives(read=False)),
        ("No-Store, NO-CACHE", Directives(read=False, write=False)),
        ("max-age=60", Directives(max_age_s=60.0)),
        ('max-age="60"', Directives(max_age_s=60.0)),
        ("max-age=60, max-age=5", Directives(max_age_s=5.0)),
        ("max-age=0", Directives(read=False, max_age_s=0.0)),
        ("max-age=soon", Directives(read=False, max_age_s=0.0)),
        ("only-if-cached, min-fresh=3", Directives(only_if_cached=True)),
    ],
)
def test_directives(header: str | None, wish: Directives) -> None:
    """Cache-Control means what RFC 9111 says, and what is malformed counts on the strict side."""
    headers = {} if header is None else {"cache-control": header}
    assert directives(headers) == wish


def test_max_age_is_compared_with_the_age() -> None:
    """An entry of exactly max-age seconds is accepted, an older one is not."""
    wish = directives({"cache-control": "max-age=60"})
    assert wish.accepts(60.0)
    assert not wish.accepts(60.1)
    assert directives({}).accepts(1e9)


def vectors() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        return []
    with gzip.open(VECTORS, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.skipif(not VECTORS.exists(), reason="the project's shared key vectors are not here")
@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_shared_vector(vector: dict[str, Any]) -> None:
    """The project's own list of request pairs comes out as it says."""

    def key(body: dict[str, Any], context: dict[str, Any]) -> str | None:
        return chat_key(
            body,
            tenant=context["tenant"],
            epoch=str(context["policy_epoch"]),
            upstream=upstream(model=body["model"], revision=context["model_revision"]),
        )

    if vector["expect"] == "reject":
        with pytest.raises(InvalidRequest):
            strict.parse(vector["b"].encode())
        return
    b = strict.parse(vector["b"].encode()) if vector["b_is_raw_json"] else vector["b"]
    one, other = key(vector["a"], vector["ctx_a"]), key(b, vector["ctx_b"])
    assert one is not None
    if vector["expect"] == "same":
        assert one == other
    else:
        assert vector["expect"] in ("different", "different_or_bypass")
        assert one != other
