"""When a turn is asked again, and what is wrong with an answer by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.evidence import Evidence
from gateway.core.chat import ChatRequest, Choice, Completion, Endpoint, Message, ToolCall
from gateway.core.events import Collector, replay
from gateway.signals import WITHIN_S, LastTurns, Turn, fault, similarity, turn

QUESTION = "How do I rename a branch that I have already pushed to the server?"
REWORDED = "How do I rename a branch that I have already pushed to the servers??"


def asked(*messages: tuple[str, str]) -> ChatRequest:
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="auto",
        messages=tuple(
            Message(role=role, text=text, raw={"role": role, "content": text})
            for role, text in messages
        ),
    )


def at(when: float, *messages: tuple[str, str], id: str = "", key_id: str = "k") -> Turn:
    text = next(text for role, text in reversed(messages) if role == "user")
    found = turn(
        asked(*messages),
        id=id or str(when),
        key_id=key_id,
        text=text,
        asked=when,
        answered=when + 1,
    )
    assert found is not None
    return found


@given(st.text(), st.text())
def test_similarity_is_a_share_and_symmetric(one: str, other: str) -> None:
    """Any two texts have a similarity from 0 to 1, the same either way, and 1 to themselves."""
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1


def test_the_same_words_are_a_regenerate_and_nearly_the_same_a_reask() -> None:
    """Within two minutes of the answer, of the same key; not later, and not for another key."""
    last = LastTurns()
    assert last.again(at(0, ("user", QUESTION), id="a")) is None
    assert last.again(at(5, ("user", QUESTION), id="b")) == ("a", "regenerate")
    assert last.again(at(9, ("user", REWORDED), id="c")) == ("b", "reask")
    assert last.again(at(10, ("user", QUESTION), key_id="other")) is None
    assert last.again(at(20 + WITHIN_S, ("user", QUESTION))) is None


def test_a_follow_up_that_asks_the_same_is_a_reask_of_the_first() -> None:
    """A conversation goes on, and its second turn is the first one's words over again."""
    last = LastTurns()
    last.again(at(0, ("user", QUESTION), id="a"))
    follow = at(5, ("user", QUESTION), ("assistant", "No idea."), ("user", REWORDED))
    assert last.again(follow) == ("a", "reask")


def test_what_is_asked_before_the_answer_came_judges_nothing() -> None:
    """A program that asks the same thing in parallel is no judge of answers."""
    last = LastTurns()
    last.again(at(0, ("user", QUESTION)))
    assert last.again(at(0.5, ("user", QUESTION))) is None


def test_an_agent_that_goes_on_after_a_tool_takes_no_turn() -> None:
    """The last user turn comes again with each tool's result, and nobody asked again."""
    request = asked(("user", QUESTION), ("assistant", ""), ("tool", "42"))
    assert turn(request, id="x", key_id="k", text=QUESTION, asked=0, answered=1) is None


@pytest.mark.parametrize(
    ("choice", "what"),
    [
        (Choice(index=0, text="Thus it is.", finish_reason="stop"), None),
        (Choice(index=0, text=" \n", finish_reason="stop"), "empty"),
        (Choice(index=0, text="I'm sorry, but no.", finish_reason="stop"), "refusal"),
        (Choice(index=0, refusal="No.", finish_reason="stop"), "refusal"),
        (Choice(index=0, text="and then some " * 40, finish_reason="stop"), "loop"),
        (
            Choice(
                index=0,
                tool_calls=(ToolCall(id="1", name="f", arguments='{"a": '),),
                finish_reason="tool_calls",
            ),
            "tool_call",
        ),
        (
            Choice(
                index=0,
                tool_calls=(ToolCall(id="1", name="f", arguments='{"a": '),),
                finish_reason="length",
            ),
            None,
        ),
    ],
)
def test_what_is_wrong_with_an_answer(choice: Choice, what: str | None) -> None:
    """Each fault has its name, and a good answer none."""
    collector = Collector()
    for event in replay(Completion(choices=(choice,))):
        collector.add(event)
    assert fault(Evidence(asked(("user", "Well?"))), collector) == what
