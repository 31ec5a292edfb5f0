"""The detector as the planner sees it: it only tightens, fails closed, and reads things once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.errors import LocalUnavailable
from gateway.core.routing import Tier, Zone
from gateway.detect.detector import INLINE_BYTES, PatternDetector
from gateway.detect.hook import FunctionHook, HookFailed, zones
from gateway.detect.patterns import KINDS, patterns
from gateway.detect.verdicts import Verdict, Verdicts
from gateway.privacy import Findings
from tests.fakes.harness import Harness, exchange, run
from tests.fakes.scripted import ScriptedBackend, saying, upstream

EMAIL = "write to jane.doe@acme.io please"


def chat(*contents: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatRequest(
        endpoint=Endpoint.CHAT, dialect="openai_chat", model="m", body={"messages": messages}
    )


class Counting:
    """A hook that remembers what it was asked and answers as it is told."""

    def __init__(self, answer: Zone | Exception = Zone.PUBLIC) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []

    async def __call__(self, texts: Sequence[str]) -> Sequence[Zone]:
        self.asked.append(list(texts))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer] * len(texts)

    async def aclose(self) -> None:
        pass


def detector(
    *, kinds: Sequence[str] = KINDS, zone: Zone = Zone.MACHINE, **options: Any
) -> PatternDetector:
    return PatternDetector(patterns(kinds), dict.fromkeys(kinds, zone), **options)


def look(watch: PatternDetector, *requests: ChatRequest, **options: Any) -> list[Findings]:
    async def story() -> list[Findings]:
        try:
            return [await watch.look(request, **options) for request in requests]
        finally:
            await watch.aclose()

    found: list[Findings] = run(story())
    return found


def test_each_kind_has_its_zone() -> None:
    """The tightest zone of all kinds that are found holds; what is let out is not told."""
    watch = PatternDetector(
        patterns(("email", "cards", "phone")),
        {"email": Zone.ORGANISATION, "cards": Zone.MACHINE, "phone": Zone.PUBLIC},
    )
    found = look(
        watch,
        chat("nothing"),
        chat(EMAIL),
        chat(EMAIL, "pay with 4111 1111 1111 1111"),
        chat("call +49 151 23456789"),
    )
    assert [each.zone for each in found] == [
        Zone.PUBLIC, Zone.ORGANISATION, Zone.MACHINE, Zone.PUBLIC,
    ]  # fmt: skip
    assert [each.kinds for each in found] == [(), ("email",), ("cards", "email"), ()]


def test_a_conversation_is_read_once() -> None:
    """The next turn is asked about its new message alone, and the old finding holds."""
    hook = Counting()
    turns = [EMAIL, "and then", "what now?"]
    found = look(detector(hook=hook), *(chat(*turns[: n + 1]) for n in range(3)), chat(*turns))
    assert {each.kinds for each in found} == {("email",)}
    assert [[text.splitlines()[0] for text in asked] for asked in hook.asked] == [
        [EMAIL], ["and then"], ["what now?"],
    ]  # fmt: skip


def test_a_dry_look_leaves_no_trace() -> None:
    """An explanation sees the same, and nothing is kept of it."""
    watch = detector()
    assert look(watch, chat(EMAIL), keep=False) == [Findings(Zone.MACHINE, ("email",))]
    assert len(watch.verdicts) == 0


@pytest.mark.parametrize("answer", [HookFailed("down"), RuntimeError("bug"), ValueError("x")])
def test_a_hook_that_fails_keeps_everything_here(answer: Exception) -> None:
    """Its error is the tightest answer, is not remembered, and says nothing of the text."""
    hook = Counting(answer)
    watch = detector(hook=hook)
    failed = Findings(Zone.MACHINE, ("failed",))
    assert look(watch, chat("benign"), chat("benign")) == [failed, failed]
    assert len(hook.asked) == 2


@pytest.mark.parametrize("zone", list(Zone))
def test_a_hook_tightens_and_never_widens(zone: Zone) -> None:
    """It may keep a benign text in; it cannot let out what a pattern has found."""
    hook = Counting(zone)
    watch = detector(zone=Zone.ORGANISATION, hook=hook)
    benign, private = look(watch, chat("benign"), chat(EMAIL))
    assert benign.zone == zone
    assert private.zone == min(zone, Zone.ORGANISATION)


def test_a_late_look_keeps_everything_here() -> None:
    """A hook that does not answer in time is a failure, and the request does not wait for it."""
    released = threading.Event()

    async def story() -> Findings:
        hook = FunctionHook(f"{__name__}:never")
        NEVER.append(released)
        watch = detector(hook=hook, timeout_s=0.05)
        return await watch.look(chat("benign"))

    try:
        assert run(story()) == Findings(Zone.MACHINE, ("failed",))
    finally:
        released.set()


NEVER: list[threading.Event] = []


def never(texts: list[str]) -> list[str]:
    NEVER.pop().wait(30)
    return ["public"] * len(texts)


def as_marked(texts: list[str]) -> list[str]:
    return ["organisation" if "ours" in text else "public" for text in texts]


def broken(texts: list[str]) -> list[str]:
    raise RuntimeError("in somebody else's code: " + texts[0])


def test_a_function_is_asked_in_its_own_thread(caplog: pytest.LogCaptureFixture) -> None:
    """A Python hook gets the texts and answers for each; what it raises keeps everything here and
    is not quoted."""

    async def story() -> list[Findings]:
        good, bad = (
            detector(hook=FunctionHook(f"{__name__}:{name}")) for name in ("as_marked", "broken")
        )
        found = [await good.look(chat(text)) for text in ("theirs", "ours")]
        return [*found, await bad.look(chat("a secret text"))]

    assert run(story()) == [
        Findings(),
        Findings(Zone.ORGANISATION, ("hook",)),
        Findings(Zone.MACHINE, ("failed",)),
    ]
    assert "RuntimeError" in caplog.text and "a secret text" not in caplog.text


@given(st.none() | st.lists(st.sampled_from(["public", "machine", "x", 1, None])) | st.text())
def test_a_hook_that_speaks_nonsense_has_failed(said: Any) -> None:
    """Only one known zone for each text is an answer."""
    right = isinstance(said, list) and len(said) == 2 and set(said) <= {"public", "machine"}
    if right:
        assert [zone.label for zone in zones(said, 2)] == said
    else:
        with pytest.raises(HookFailed):
            zones(said, 2)


@pytest.mark.parametrize("size", [10, INLINE_BYTES * 4])
def test_short_and_long_texts_are_read_alike(size: int) -> None:
    """What is read at once and what is read in a thread come to the same."""
    found = look(detector(), chat("x " * size + EMAIL), chat("y " * size))
    assert [each.kinds for each in found] == [("email",), ()]


def test_nobody_waits_for_a_scan_that_is_given_up() -> None:
    """A client that leaves ends its scan; the next one is not held up by it."""

    async def story() -> None:
        watch = detector()
        long = asyncio.create_task(watch.look(chat("word 12 " * 1_000_000)))
        await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        assert (await watch.look(chat(EMAIL))).kinds == ("email",)
        await watch.aclose()

    run(story())


def test_pictures_go_where_they_are_allowed() -> None:
    """What is no text is as tight as configured."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    request = chat([{"type": "text", "text": "see"}, picture])
    kept, let_out = look(detector(), request)[0], look(detector(opaque=Zone.PUBLIC), request)[0]
    assert kept == Findings(Zone.MACHINE, ("opaque",))
    assert let_out == Findings()


def test_verdicts_are_few_and_salted() -> None:
    """Old ones go; two processes' hashes of the same text have nothing in common."""
    one, other = Verdicts(capacity=2), Verdicts()
    assert one.digest(b"text") != other.digest(b"text")
    for text in (b"a", b"b", b"c"):
        one.put(one.digest(text), Verdict((text.decode(),)))
        one.get(one.digest(b"a"))
    assert len(one) == 2
    assert one.get(one.digest(b"b")) is None or one.get(one.digest(b"a")) is None


def test_the_pipeline_keeps_what_was_found_here() -> None:
    """A finding removes what is outside before routing, pinned or not, and the record has its
    kind."""
    local = ScriptedBackend(upstream("local", zone=Zone.MACHINE, tier=Tier.LOCAL), saying("here"))
    cloud = ScriptedBackend(upstream("cloud"), saying("there"))
    harness = Harness([cloud, local])
    planner = harness.pipeline.planner
    planner.rulebook = replace(planner.rulebook, detector=detector())
    private = chat(EMAIL).body
    assert run(harness.answer()) == "there"
    assert run(harness.answer(body=private)) == "here"
    with pytest.raises(LocalUnavailable, match="saw: email"):
        run(harness.answer("cloud", body=private))
    assert len(cloud.calls) == 1
    assert [record.found for record in harness.records] == [(), ("email",), ("email",)]
    assert [record.zone for record in harness.records] == ["public", "machine", "machine"]


def test_a_request_that_stays_here_anyway_is_not_read() -> None:
    """Nothing tightens below machine, so nothing is scanned."""
    hook = Counting()
    harness = Harness([ScriptedBackend(upstream("local", zone=Zone.MACHINE), saying("here"))])
    planner = harness.pipeline.planner
    planner.rulebook = replace(planner.rulebook, detector=detector(hook=hook))

    async def story() -> None:
        await harness.fleet.look()
        await planner.plan(exchange(headers={"x-tandem-zone": "machine"}))

    run(story())
    assert hook.asked == []
