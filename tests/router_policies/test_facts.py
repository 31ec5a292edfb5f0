"""Facts of a request: what is said of it, and what is left unsaid."""

from __future__ import annotations

from pathlib import Path

from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling
from gateway.core.exchange import Caller
from gateway.core.routing import Zone
from router_policies.facts import FACTS, facts, find


def chat(*messages: tuple[str, str], **changes: object) -> ChatRequest:
    turns = tuple(Message(role=role, text=text) for role, text in messages)
    return ChatRequest(
        endpoint=Endpoint.CHAT, dialect="openai_chat", model="auto", messages=turns, **changes
    )


def test_a_conversation_in_numbers() -> None:
    """Messages, user turns and the last user turn's bytes are counted, in UTF-8."""
    request = chat(("system", "s"), ("user", "hello"), ("assistant", "hi"), ("user", "äöü"))
    known = facts(request, Caller(tenant="web", zone=Zone.ORGANISATION), {}, ())
    assert known["messages"] == 4
    assert known["turns"] == 2
    assert known["last_user_bytes"] == 6
    assert known["prompt_bytes"] == 1 + 5 + 2 + 6
    assert known["prompt_tokens"] == 4
    assert known["has_system"] is True
    assert (known["tenant"], known["zone"]) == ("web", "organisation")


def test_a_prompt_of_tokens_is_counted_exactly() -> None:
    """Token ids are tokens, not bytes to be divided by four."""
    request = ChatRequest(
        endpoint=Endpoint.COMPLETION, dialect="openai_completions", model="m", prompt=(1, 2, 3)
    )
    assert facts(request, Caller(), {}, ())["prompt_tokens"] == 3


def test_what_a_client_does_not_say_is_absent() -> None:
    """max_tokens and temperature appear only when set, a temperature of 0 included."""
    assert "max_tokens" not in facts(chat(("user", "x")), Caller(), {}, ())
    set_by_client = chat(("user", "x"), sampling=Sampling(temperature=0.0, max_tokens=5))
    known = facts(set_by_client, Caller(), {}, ())
    assert (known["temperature"], known["max_tokens"]) == (0.0, 5)


def test_only_wanted_headers_become_facts() -> None:
    """A header that no rule looks at is not copied."""
    headers = {"x-team": "radiology", "authorization": "Bearer secret"}
    known = facts(chat(("user", "x")), Caller(), headers, {"x-team", "x-absent"})
    assert known["header.x-team"] == "radiology"
    assert [name for name in known if name.startswith("header.")] == ["header.x-team"]


def test_the_list_is_closed() -> None:
    """Everything that `facts` can say is in FACTS, and everything in FACTS can be said."""
    request = chat(
        ("user", "x"),
        sampling=Sampling(temperature=1.0, max_tokens=5),
        features=frozenset({Feature.TOOLS}),
    )
    assert set(facts(request, Caller(), {}, ())) == set(FACTS)
    assert find("header.x-any") is not None
    assert find("header.") is None
    assert find("promt_tokens") is None


def test_every_fact_is_documented() -> None:
    """design.md beside the code names each fact."""
    text = (Path(__file__).parents[2] / "router_policies" / "design.md").read_text()
    assert [name for name in FACTS if f"`{name}`" not in text] == []
