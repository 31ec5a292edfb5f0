"""The companion's session: the target's own answer, whatever the other side sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.protocol import MAX_DRAFT
from backends.speculative.seams import Ended, Gone
from backends.speculative.session import (
    Cancel,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    MalformedMessage,
    Message,
    Open,
    Opened,
    Stale,
)
from backends.speculative.verify import MOST_DRAFTS, VerifySession
from gateway.core.chat import ChatRequest, Endpoint, Feature, Sampling
from gateway.core.errors import ContextExceeded, EngineFailed, NotFound, Overloaded
from gateway.core.exchange import Caller
from tests.fakes.toy_pair import END, VOCABULARY, ToyModel

SENTENCE = "the cat sat on the mat and looked at the moon"
PRINT = Fingerprint.of(VOCABULARY)
OPENING = Open(model="toy", model_fp=PRINT, request={})


class Wire:
    """A channel whose other end is the test."""

    def __init__(self, *messages: Message | Exception) -> None:
        self.inbound: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.sent: list[Message] = []
        self.broken = False
        for message in messages:
            self.inbound.put_nowait(message)

    async def receive(self) -> Message:
        message = await self.inbound.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        if self.broken:
            raise Gone
        self.sent.append(message)

    @property
    def commits(self) -> list[Commit]:
        return [message for message in self.sent if isinstance(message, Commit)]

    @property
    def text(self) -> str:
        return b"".join(commit.text_bytes for commit in self.commits).decode()


class Served:
    """A session over one wire, as the endpoint serves it."""

    def __init__(self, wire: Wire, target: ToyModel, sampling: Sampling | None = None) -> None:
        def read(opening: Open, caller: Caller) -> ChatRequest:
            return ChatRequest(
                endpoint=Endpoint.COMPLETION,
                dialect="test",
                model=opening.model,
                prompt="x",
                sampling=sampling or Sampling(),
                features=frozenset({Feature.COMPLETION}),
            )

        self.wire = wire
        self.session = VerifySession(
            Caller(tenant="web"), resolve=lambda model: target, read=read, linger_s=0.0
        )

    async def run(self) -> Ended:
        first = await self.wire.receive()
        assert isinstance(first, Open)
        await self.session.serve(self.wire, first)
        return await self.session.aclose()


def session(wire: Wire, target: ToyModel, sampling: Sampling | None = None) -> Served:
    return Served(wire, target, sampling)


def run(
    wire: Wire, target: ToyModel, sampling: Sampling | None = None
) -> tuple[Ended, list[Message]]:
    async def scenario() -> Ended:
        async with asyncio.timeout(20):
            return await session(wire, target, sampling).run()

    return asyncio.run(scenario()), wire.sent


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_it_answers_without_drafts() -> None:
    """The target never waits: a session in which nobody drafts is a plain stream."""
    wire, target = Wire(OPENING), ToyModel("toy", SENTENCE)
    ended, sent = run(wire, target)
    assert isinstance(sent[0], Opened)
    assert sent[0].prompt_ids == (1, 2, 3)
    assert sent[0].exactness == "bitwise"
    assert sent[0].model_fp == PRINT
    assert wire.text == SENTENCE
    assert wire.commits[-1].finish == "stop"
    assert ended.outcome == "ok"
    assert ended.usage.completion_tokens == len(SENTENCE) + 1
    assert ended.rounds == len(SENTENCE) + 1
    [sequence] = target.engine.sequences
    assert (sequence.job.role, sequence.job.tenant, sequence.closed) == ("target", "web", True)


def drafts_of(text: str, size: int, epoch: int = 0) -> list[Draft]:
    tokens = (*text.encode(), END)
    return [
        Draft(epoch=epoch, base_pos=at, tokens=tokens[at : at + size])
        for at in range(0, len(tokens), size)
    ]


ADVERSARIES: dict[str, list[Draft]] = {
    "perfect": drafts_of(SENTENCE, 4),
    "wrong everywhere": [Draft(epoch=0, base_pos=at, tokens=(127,) * 8) for at in range(40)],
    "right, then wrong": drafts_of(SENTENCE[:10] + "X" + SENTENCE[11:], 6),
    "end of text in the middle": [Draft(epoch=0, base_pos=3, tokens=(END, 5, END))] * 5,
    "after the end": drafts_of(SENTENCE + " and so on for ever", 8),
    "ids of another vocabulary": [Draft(epoch=0, base_pos=2, tokens=(2**31 - 1,))],
    "epochs from the future": drafts_of(SENTENCE, 3, epoch=9) + drafts_of("no", 2, epoch=4),
    "backwards": list(reversed(drafts_of(SENTENCE, 3))),
    "as long as can be": [Draft(epoch=0, base_pos=0, tokens=(116,) * MAX_DRAFT)] * 20,
    "far away": [Draft(epoch=0, base_pos=2**31 - 1, tokens=(1,))],
}


@pytest.mark.parametrize("drafts", ADVERSARIES.values(), ids=ADVERSARIES)
@pytest.mark.parametrize("max_tokens", [None, 1, 7])
def test_drafts_change_no_byte(drafts: list[Draft], max_tokens: int | None) -> None:
    """Whatever is drafted, tokens, text, finish and usage are those of the target alone."""
    sampling = Sampling(max_tokens=max_tokens)
    alone, drafted = Wire(OPENING), Wire(OPENING, *drafts)
    plain, _ = run(alone, ToyModel("toy", SENTENCE), sampling)
    ended, _ = run(drafted, ToyModel("toy", SENTENCE), sampling)
    assert drafted.text == alone.text
    assert _tokens(drafted) == _tokens(alone)
    assert drafted.commits[-1].finish == alone.commits[-1].finish
    assert ended.usage == plain.usage


def _tokens(wire: Wire) -> list[int]:
    tokens: list[int] = []
    for commit in wire.commits:
        assert commit.base_pos == len(tokens), "a position was skipped or said twice"
        tokens += commit.tokens
    return tokens


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.builds(
            Draft,
            epoch=st.integers(0, 3),
            base_pos=st.integers(0, len(SENTENCE) + 3),
            tokens=st.one_of(
                st.lists(st.sampled_from([*SENTENCE.encode(), END]), min_size=1, max_size=9),
                st.integers(0, len(SENTENCE) - 1).map(lambda at: list(SENTENCE[at:].encode())[:9]),
            ).map(tuple),
        ),
        max_size=30,
    )
)
def test_no_draft_stream_changes_a_token(drafts: list[Draft]) -> None:
    """Nor do drafts that nobody would think of."""
    wire = Wire(OPENING, *drafts)
    run(wire, ToyModel("toy", SENTENCE))
    assert _tokens(wire) == [*SENTENCE.encode(), END]


def test_a_flood_is_not_handed_on() -> None:
    """However many drafts come between two passes, the worker gets a bounded number."""
    flood = [Draft(epoch=0, base_pos=at % 8, tokens=(127,)) for at in range(MOST_DRAFTS + 20)]
    wire, target = Wire(OPENING), ToyModel("toy", SENTENCE)

    async def scenario() -> None:
        gate = target.engine.hold = asyncio.Event()
        running = asyncio.create_task(session(wire, target).run())
        await until(lambda: bool(target.engine.sequences) and bool(wire.sent))
        for draft in flood:
            wire.inbound.put_nowait(draft)
        await until(
            lambda: wire.sent.count(Stale(epoch=0, base_pos=0)) > 0 and wire.inbound.empty()
        )
        gate.set()
        await running

    asyncio.run(scenario())
    assert target.engine.sequences[0].drafts_heard == MOST_DRAFTS
    assert wire.text == SENTENCE


def test_good_drafts_save_passes() -> None:
    """Tokens that were drafted right are settled several to a pass, and counted."""
    wire = Wire(OPENING)

    async def scenario() -> Ended:
        target = ToyModel("toy", SENTENCE)
        target.engine.hold = asyncio.Event()
        running = asyncio.create_task(session(wire, target).run())
        await until(lambda: bool(target.engine.sequences))
        for draft in drafts_of(SENTENCE, 8):
            wire.inbound.put_nowait(draft)
        await until(wire.inbound.empty)
        target.engine.hold.set()
        return await running

    ended = asyncio.run(scenario())
    assert wire.text == SENTENCE
    assert ended.rounds < len(SENTENCE) / 4
    assert ended.accepted == ended.drafted > 30
    assert {commit.source for commit in wire.commits} >= {"bonus"}


def test_late_drafts_are_called_stale() -> None:
    """A draft behind the target is told so, and the session goes on."""
    wire = Wire(OPENING)

    async def scenario() -> None:
        running = asyncio.create_task(session(wire, ToyModel("toy", SENTENCE)).run())
        await until(lambda: len(wire.commits) > 4)
        wire.inbound.put_nowait(Draft(epoch=0, base_pos=0, tokens=(127, 127)))
        await running

    asyncio.run(scenario())
    assert Stale(epoch=0, base_pos=0) in wire.sent
    assert wire.text == SENTENCE


def test_a_wrong_turn_in_the_past_raises_the_epoch() -> None:
    """A late draft that disagrees ends its guess: what follows from it is not verified."""
    wire = Wire(OPENING)

    async def scenario() -> None:
        running = asyncio.create_task(session(wire, ToyModel("toy", SENTENCE)).run())
        await until(lambda: len(wire.commits) > 4)
        wire.inbound.put_nowait(Draft(epoch=0, base_pos=0, tokens=(127, 127)))
        await running

    asyncio.run(scenario())
    assert wire.commits[-1].epoch == 1


def test_without_a_fingerprint_no_drafts() -> None:
    """Who does not say which vocabulary drafts come from gets the answer, and no prompt ids."""
    opening = Open(model="toy", request={})
    wire = Wire(opening, *drafts_of(SENTENCE, 8))
    ended, sent = run(wire, ToyModel("toy", SENTENCE))
    assert isinstance(sent[0], Opened)
    assert sent[0].prompt_ids == ()
    assert ended.drafted == 0
    assert wire.text == SENTENCE


@pytest.mark.parametrize("word", [Cancel(), Gone()])
def test_leaving_frees_the_target(word: Message | Exception) -> None:
    """A cancel, or a closed socket, stops the target at once."""
    wire, target = Wire(OPENING), ToyModel("toy", SENTENCE * 100)

    async def scenario() -> Ended:
        running = asyncio.create_task(session(wire, target).run())
        await until(lambda: len(wire.commits) > 2)
        wire.inbound.put_nowait(word)
        return await running

    ended = asyncio.run(scenario())
    assert ended.outcome == "cancelled"
    assert target.engine.sequences[0].closed
    assert wire.commits[-1].finish is None


def test_leaving_is_heard_before_the_first_token() -> None:
    """A prompt that is still waiting for its turn is given up too."""

    class Slow(ToyModel):
        async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
            await asyncio.Event().wait()
            return ()

    ended, sent = run(Wire(OPENING, Cancel()), Slow("toy", SENTENCE))
    assert ended.outcome == "cancelled"
    assert sent == []


def test_a_socket_that_breaks_while_we_speak() -> None:
    """A commit that cannot be sent ends the session and frees the target."""
    wire, target = Wire(OPENING), ToyModel("toy", SENTENCE * 100)

    async def scenario() -> Ended:
        running = asyncio.create_task(session(wire, target).run())
        await until(lambda: len(wire.commits) > 2)
        wire.broken = True
        return await running

    assert asyncio.run(scenario()).outcome == "cancelled"
    assert target.engine.sequences[0].closed


FOREIGN = Fingerprint(tokenizer_sha="other", vocab_n=128)


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        (Open(v=99, request={}), "version_mismatch"),
        (Open(request={}, model_fp=FOREIGN), "fingerprint_mismatch"),
        (Open(request={}, self_generate=False), "invalid_value"),
    ],
)
def test_what_cannot_be_opened(opening: Message, code: str) -> None:
    """A refusal names its reason, and the target does no work for it."""
    target = ToyModel("toy", SENTENCE)
    ended, sent = run(Wire(opening), target)
    assert isinstance(sent[0], Failure)
    assert (sent[0].code, ended.outcome) == (code, code)
    assert target.engine.sequences == []


def test_refusals_point_to_streaming() -> None:
    """What only the session cannot do says that plain streaming can."""
    _, sent = run(Wire(Open(request={}, model_fp=FOREIGN)), ToyModel("toy", SENTENCE))
    assert isinstance(sent[0], Failure)
    assert (sent[0].fallback, sent[0].retry) == ("stream", False)


def test_engine_errors_keep_their_codes() -> None:
    """A full queue says retry, a prompt that is too long says why, a dead engine ends it."""
    target = ToyModel("toy", SENTENCE)
    for error, retry in (
        (Overloaded("busy"), True),
        (ContextExceeded("long"), False),
        (EngineFailed("dead"), True),
        (NotFound("none"), False),
    ):
        target.engine.refuse = error
        _, sent = run(Wire(OPENING), target)
        assert isinstance(sent[0], Failure)
        assert (sent[0].code, sent[0].retry) == (error.code, retry)


def test_an_engine_that_dies_in_the_middle() -> None:
    """Commits already sent stand, and the error is the last word."""
    target = ToyModel("toy", SENTENCE)
    target.engine.fail_at = (5, EngineFailed("killed"))
    wire = Wire(OPENING)
    ended, sent = run(wire, target)
    assert wire.text == SENTENCE[:5]
    assert isinstance(sent[-1], Failure)
    assert ended.outcome == "engine_failed"


def test_garbage_in_the_middle_ends_the_session() -> None:
    """A peer that does not speak the protocol is not served any further."""
    wire, target = Wire(OPENING), ToyModel("toy", SENTENCE * 100)

    async def scenario() -> Ended:
        running = asyncio.create_task(session(wire, target).run())
        await until(lambda: len(wire.commits) > 2)
        wire.inbound.put_nowait(MalformedMessage("what?"))
        return await running

    assert asyncio.run(scenario()).outcome == "bad_message"
    assert target.engine.sequences[0].closed


def test_session_ids_are_not_guessable() -> None:
    """Each session has its own long random id."""

    async def scenario() -> None:
        made = [session(Wire(), ToyModel("toy")).session for _ in range(50)]
        secret = {each.id for each in made} | {each.token for each in made}
        assert len(secret) == 100
        assert min(map(len, secret)) >= 22

    asyncio.run(scenario())
