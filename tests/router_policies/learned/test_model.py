"""A router on texts: whatever they hold, quickly and with an explanation that adds up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chat import ChatRequest, Endpoint, Message
from router_policies.learned.artifact import DEFAULT, load
from router_policies.learned.features import NAMES, features
from router_policies.learned.text import HEAD, TAIL, view, words
from router_policies.learned.wording import Wording, pairs
from router_policies.training.golden import GOLDEN

ROUTER = load(DEFAULT).router


@given(text=st.one_of(st.text(), st.from_regex(r"(\w+ |[A-J]\. |\n|\$|[0-9]+){0,60}")))
def test_any_text_is_assessed(text: str) -> None:
    """Every text gets finite numbers, and chances between 0 and 1."""
    said = ROUTER.assess(text)
    assert np.isfinite([said.score, said.gain, said.fails]).all()
    assert 0 <= said.novelty <= 1 and 0 <= said.weak_ok <= 1 and 0 <= said.strong_ok <= 1
    numbers = features(text, words(text))
    assert len(numbers) == len(NAMES) and np.isfinite(numbers).all()


@given(text=st.one_of(st.text(), st.sampled_from(GOLDEN)))
def test_an_explanation_adds_up(text: str) -> None:
    """The parts of an explanation are together the score, whatever the text and its novelty."""
    said, parts = ROUTER.explain(text)
    assert said.score == pytest.approx(ROUTER.assess(text).score, abs=1e-5)
    assert sum(parts.values()) == pytest.approx(said.score, abs=1e-9)


def test_a_harder_question_scores_higher() -> None:
    """The router that comes with Tandem tells an olympiad problem from a sum, and says so."""
    hard = "Find all primes $p$ such that $p^2 + 2$ is prime, and prove that there are no others."
    easy = "Who wrote the play Hamlet?\nA. Goethe\nB. Shakespeare\nC. Ibsen\nD. Homer"
    assert ROUTER.assess(hard).score > ROUTER.assess(easy).score


def test_new_words_are_novel() -> None:
    """A language that training never had is newer than an exam question."""
    foreign = "今日の天気はどうですか とても寒いですね それでは また明日"
    known = "Which of the following statements is true of the rate of change of a function?"
    assert ROUTER.assess(foreign).novelty > 0.9 > ROUTER.assess(known).novelty + 0.4


def chat(*turns: tuple[str, str], **changes: object) -> ChatRequest:
    messages = tuple(Message(role=role, text=text) for role, text in turns)
    fields = {"endpoint": Endpoint.CHAT, "messages": messages, **changes}
    return ChatRequest(dialect="openai_chat", model="auto", **fields)  # type: ignore[arg-type]


def test_the_last_user_turn_is_read() -> None:
    """What the user said last is scored, both ends of it if it is long; nothing else."""
    assert view(chat(("system", "be kind"), ("user", "one"), ("assistant", "two"))) == "one"
    long = view(chat(("user", "a" * 9000 + "why?")))
    assert long is not None and long.endswith("why?") and len(long) == HEAD + TAIL + 1


@pytest.mark.parametrize(
    "request_",
    [
        chat(("user", " \n")),
        chat(("system", "be kind")),
        chat(prompt=(1, 2, 3), endpoint=Endpoint.COMPLETION),
        chat(prompt="def f(", suffix=")", endpoint=Endpoint.COMPLETION),
        chat(prompt="def f(", endpoint=Endpoint.INFILL),
        chat(inputs=("text",), endpoint=Endpoint.EMBEDDINGS),
    ],
)
def test_what_cannot_be_read_is_not_scored(request_: ChatRequest) -> None:
    """Token ids, holes to fill, texts to embed and silence have no view."""
    assert view(request_) is None


def test_words_become_pieces() -> None:
    """A known word is one piece, a rare one its longest pieces, what has none is left out."""
    vectors = np.eye(4, dtype=np.int8) * 100
    wording = Wording(["cat", "##s", "un", "##cat"], vectors, np.zeros(8, np.uint8))
    assert wording.ids(["cats", "cat", "uncats", "dog", "un"]).tolist() == [0, 1, 0, 2, 3, 1, 2]
    assert wording.vector(wording.ids(["cat"])).tolist() == [1, 0, 0, 0]
    assert wording.vector(wording.ids([])).tolist() == [0, 0, 0, 0]
    assert wording.novelty(wording.ids(["cat", "un"])) == 1.0


def test_known_pairs_are_not_novel() -> None:
    """Novelty is the share of neighbouring pieces that are not in the bitmap."""
    pieces = ["a", "b", "c"]
    vectors = np.ones((3, 2), np.int8)
    (known,) = pairs(np.array([0, 1], np.intp)).tolist()
    flags = np.zeros(2**16, np.bool_)
    flags[known >> 16] = True
    wording = Wording(pieces, vectors, np.packbits(flags, bitorder="little"))
    assert wording.novelty(wording.ids(["a", "b"])) == 0.0
    assert wording.novelty(wording.ids(["b", "a"])) == 1.0
    assert wording.novelty(wording.ids(["a", "b", "c"])) == 0.5


def test_the_default_artifact_fits_its_card() -> None:
    """Its folder has a card with the licences, and it is small enough to ship."""
    card = (DEFAULT / "CARD.md").read_text()
    assert "Apache-2.0" in card and "MiniLM" in card
    assert sum(path.stat().st_size for path in Path(DEFAULT).iterdir()) < 3_000_000
