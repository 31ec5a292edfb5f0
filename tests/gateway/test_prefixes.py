"""What is remembered of prompts: whose beginnings, for whom, for how long."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chat import ChatRequest, Endpoint, Message
from gateway.core.routing import Zone
from gateway.prefixes import BLOCK, ENDS, FINE, LONGEST, Prefixes


def asked(*texts: str, **changes: object) -> ChatRequest:
    turns = tuple(Message(role="user", text=text) for text in texts)
    request = ChatRequest(endpoint=Endpoint.CHAT, dialect="openai_chat", model="m", messages=turns)
    return replace(request, **changes)  # type: ignore[arg-type]


def warm(
    prefixes: Prefixes, request: ChatRequest, tenant: str = "t", zone: Zone = Zone.PUBLIC
) -> dict[str, float]:
    return prefixes.warm(prefixes.of(request, tenant, zone))


def place(prefixes: Prefixes, request: ChatRequest, upstream: str, now: float = 0.0) -> None:
    prefixes.place(prefixes.of(request, "t", Zone.PUBLIC), upstream, now)


@given(st.lists(st.text(min_size=1, max_size=900), min_size=1, max_size=6), st.text(max_size=900))
def test_the_next_turn_knows_the_last_one(turns: list[str], more: str) -> None:
    """All whole blocks of what an upstream has read are warm for what begins the same."""
    prefixes = Prefixes()
    place(prefixes, asked(*turns), "a")
    size = sum(len("user") + 2 + len(text) for text in turns)
    whole = max((end for end in ENDS if end <= size), default=0)
    known = warm(prefixes, asked(*turns, more))
    assert known.get("a", 0) == whole / 4


@given(st.integers(0, 3000), st.text(min_size=1, max_size=1))
def test_one_character_ends_the_warmth(at: int, other: str) -> None:
    """From the block with the first difference on nothing is warm."""
    prefixes, text = Prefixes(), "x" * 3001
    place(prefixes, asked(text), "a")
    changed = text[:at] + other + text[at + 1 :]
    same = len("user\x1f") + at if other != "x" else 3007
    assert warm(prefixes, asked(changed)).get("a", 0) == same // BLOCK * BLOCK / 4


def test_tenants_zones_and_tools_are_apart() -> None:
    """Nobody learns by trying what another tenant has sent; other tools are another beginning."""
    prefixes, request = Prefixes(), asked("word " * 400)
    place(prefixes, request, "a")
    assert warm(prefixes, request)
    assert not warm(prefixes, request, tenant="u")
    assert not warm(prefixes, request, zone=Zone.MACHINE)
    assert not warm(prefixes, replace(request, body={"tools": [{"type": "function"}]}))
    assert not warm(Prefixes(), request)


def test_token_ids_and_bare_prompts() -> None:
    """A prompt without turns has beginnings too, also as token ids, which count as themselves."""
    prefixes = Prefixes()
    ids = asked(prompt=tuple(range(1000)), endpoint=Endpoint.COMPLETION)
    place(prefixes, ids, "a")
    assert warm(prefixes, ids) == {"a": 768}
    text = asked(prompt="y" * 1000, endpoint=Endpoint.COMPLETION)
    place(prefixes, text, "b")
    assert warm(prefixes, text) == {"b": 192}


def test_several_may_know_the_same() -> None:
    """A beginning that two have read is warm at both, each as far as it has come."""
    prefixes, system = Prefixes(), "s" * 1100
    place(prefixes, asked(system, "q" * 900), "a")
    place(prefixes, asked(system, "r" * 900), "b")
    assert warm(prefixes, asked(system, "q" * 900, "more")) == {"a": 448, "b": 256}


def test_what_is_not_used_is_forgotten() -> None:
    """What is used stays, what is not goes after twice the time or when it is too much."""
    prefixes = Prefixes(half=40, forget_s=100)
    kept, gone = asked("k" * 1100), asked("g" * 1100)
    place(prefixes, gone, "a", now=0)
    for now in range(0, 500, 50):
        place(prefixes, kept, "a", now=now)
    assert warm(prefixes, kept)
    assert not warm(prefixes, gone)
    for number in range(1000):
        place(prefixes, asked(f"{number} " * 900), "a", now=500)
        place(prefixes, kept, "b", now=500)
    assert len(prefixes) <= 2 * (40 + len(ENDS))
    assert warm(prefixes, kept) == {"b": 256, "a": 256}


def test_long_prompts_cost_few_blocks() -> None:
    """A block's end depends on its place alone, and a quarter of a million characters have few."""
    assert ENDS[: FINE // BLOCK] == tuple(range(BLOCK, FINE + 1, BLOCK))
    assert list(ENDS) == sorted(set(ENDS))
    assert len(ENDS) < 64
    assert ENDS[-1] >= LONGEST
