"""Which conversation a request belongs to, and who answered it last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.conversations import TTL_S, Conversations
from gateway.core.chat import ChatRequest, Endpoint, Message
from gateway.core.routing import Candidate, Facts, Route, Zone
from gateway.explain import explain
from router_policies.base import Settings
from router_policies.chain import Chain
from router_policies.sticky import StickyPolicy
from tests.fakes.harness import Harness, exchange, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream


def chat(*turns: tuple[str, str]) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="m",
        messages=tuple(Message(role=role, text=text) for role, text in turns),
    )


FIRST = (("system", "be brief"), ("user", "hello"))


def test_a_conversation_is_known_by_its_beginning() -> None:
    """Later turns belong to it; another tenant, zone, system prompt or first turn does not."""
    among = Conversations(lambda: 0.0)

    def last(request: ChatRequest, tenant: str = "t", zone: Zone = Zone.PUBLIC) -> str | None:
        conversation = among.of(request, tenant, zone)
        assert conversation is not None
        return conversation.last

    begun = among.of(chat(*FIRST), "t", Zone.PUBLIC)
    assert begun is not None
    begun.served_by("a")
    assert last(chat(*FIRST, ("assistant", "hi"), ("user", "more"))) == "a"
    assert last(chat(*FIRST), tenant="other") is None
    assert last(chat(*FIRST), zone=Zone.MACHINE) is None
    assert last(chat(("system", "be long"), FIRST[1])) is None
    assert last(chat(FIRST[0], ("user", "bye"))) is None
    plain = ChatRequest(endpoint=Endpoint.COMPLETION, dialect="x", model="m", prompt="hello")
    assert among.of(plain, "t", Zone.PUBLIC) is None


def test_they_are_few_and_do_not_last() -> None:
    """The oldest go first, and after an hour nobody has the prefix any more."""
    now = [0.0]
    among = Conversations(lambda: now[0], capacity=2)
    for text in "abc":
        conversation = among.of(chat(("user", text)), "t", Zone.PUBLIC)
        assert conversation is not None
        conversation.served_by(text)
    last = [among.of(chat(("user", text)), "t", Zone.PUBLIC) for text in "abc"]
    assert len(among) == 2
    assert [each and each.last for each in last] == [None, "b", "c"]
    now[0] = TTL_S
    assert [each and each.last for each in last] == [None, None, None]


def test_a_live_turn_is_remembered_and_a_dry_one_is_not() -> None:
    """The next turn stays with who answered, a fallback included; explaining changes nothing."""
    broken = ScriptedBackend(upstream("b"), ok=False)
    harness = Harness([ScriptedBackend(upstream("a"), lambda: saying("from a")), broken])
    among = Conversations(lambda: harness.now)

    class Ranking:
        name = "ranking"

        def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route:
            order = sorted(candidates, key=lambda each: each.upstream.name, reverse=True)
            return Route(candidates=tuple(order), reason="learned", worth={"a": 0.5, "b": 0.51})

    planner = harness.pipeline.planner
    book = planner.rulebook
    chain = Chain([Ranking(), StickyPolicy(Settings())])
    alias = replace(book.aliases["auto"], policy=chain, conversations=among)
    planner.rulebook = replace(book, aliases={"auto": alias})
    turn = chat(("user", "a question of some length"), ("assistant", "x"), ("user", "y"))

    async def story() -> None:
        await harness.fleet.look()
        asked = exchange(messages=turn.messages)
        assert (await explain(planner, asked))["decision"]["reason"] == "learned"
        assert len(among) == 0
        assert await harness.answer(messages=turn.messages) == "from a"  # b is down
        assert len(among) == 1
        broken.ok, broken.script = True, saying("from b")
        assert await harness.answer(messages=turn.messages) == "from a"
        assert harness.records[-1].reason == "sticky"
        fresh = (Message(role="user", text="something else"),)
        assert await harness.answer(messages=fresh) == "from b"

    run(story())
