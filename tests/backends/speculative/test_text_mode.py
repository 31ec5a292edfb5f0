"""Drafts of another vocabulary: they go as text, and the answer stays the target's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.speculative.alignment import Alignment
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.options import SpeculativeOptions
from backends.speculative.parse import parse
from backends.speculative.session import (
    MAX_DRAFT_TEXT,
    WAYS,
    Draft,
    MalformedMessage,
    Open,
    Opened,
    pack,
)
from backends.speculative.text_line import TextLine
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.chat import ChatRequest, Feature
from gateway.core.events import Finish, SpeculationReport, TextDelta, UsageReport
from gateway.core.exchange import Call, Caller
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.bundled_pair import build
from tests.fakes.serving import serving

pytest.importorskip("llama_cpp")

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
STORIES = "stories260K-q8_0.gguf"
PAIRS = [("bundled:target", STORIES), (STORIES, "bundled:draft")]
PROMPTS = [
    "def read_json(path):\n    with open(path) as file:\n",
    "Once upon a time, there was a little girl. Once upon a time, there was a little",
    "naïve café — ünïcödé “東京” 🙂 ",
    "",
]
WAYS_TO_SAMPLE: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "seed": 5, "top_p": 0.95, "presence_penalty": 0.4},
]


@dataclass
class Two:
    """A target, and an upstream that drafts for it with a model of another vocabulary."""

    target: LlamaCppBackend
    upstream: SpeculativeBackend

    async def ask(self, request: ChatRequest, *, alone: bool) -> tuple[Any, SpeculationReport]:
        """(what must be equal, how it went)"""
        backend = self.target if alone else self.upstream
        text, ends, report = "", list[Any](), SpeculationReport(strategy="")
        async for event in backend.stream(request, Call(id="req")):
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finish):
                ends.append(event.reason)
            elif isinstance(event, UsageReport):
                ends.append(event.usage.completion_tokens)
            elif isinstance(event, SpeculationReport):
                report = event
        return (text, ends), report


@asynccontextmanager
async def two(target_file: str, draft_file: str) -> AsyncIterator[Two]:
    if not (SHARED / STORIES).is_file():
        pytest.skip(f"no {STORIES} here: the bundled pair shares one vocabulary")
    lent = Resources(model_dir=SHARED)
    target = build("llama_cpp", lent, model=target_file, zone="machine", strict=True, context=512)
    draft = build("llama_cpp", lent, model=draft_file, zone="machine", context=512)
    await asyncio.gather(target.start(), draft.start())
    endpoint = CompanionEndpoint(
        guard=lambda method, headers: None,
        authenticate=lambda headers: Caller(),
        resolve=resolver({"target": target}),
    )
    try:
        async with serving(endpoint) as base_url:
            options = OpenAIOptions(kind="companion", base_url=base_url, model="target")
            cloud = OpenAIBackend("cloud", options, lent)
            settings = SpeculativeOptions(
                kind="speculative", draft="draft", target="cloud", always=True
            )
            parts = Resources(backends={"draft": draft, "cloud": cloud})
            upstream = SpeculativeBackend("pair", settings, parts)
            yield Two(target, upstream)
            await upstream.aclose()
            await cloud.aclose()
    finally:
        await asyncio.gather(target.aclose(), draft.aclose())


def completion(prompt: str, **fields: Any) -> ChatRequest:
    body = {"model": "tandem", "prompt": prompt, "max_tokens": 64, **fields}
    return OpenAICompletions().decode(body, {})


@pytest.mark.parametrize("files", PAIRS, ids=["code", "stories"])
def test_the_answer_is_the_targets(files: tuple[str, str]) -> None:
    """Greedy and with a seed, ASCII and not, drafts of the other vocabulary change no byte, no
    finish and no count."""

    async def story() -> None:
        async with two(*files) as here:
            for way in WAYS_TO_SAMPLE:
                for prompt in PROMPTS:
                    request = completion(prompt, **way)
                    alone, _ = await here.ask(request, alone=True)
                    together, report = await here.ask(request, alone=False)
                    assert together == alone, (prompt, way)
                    assert report.strategy.startswith("companion"), report.strategy

    asyncio.run(story())


def test_a_prediction_holds_across_vocabularies() -> None:
    """The client expects just what the target says: cut anew into the target's tokens, what is
    there in time is accepted."""

    async def story() -> None:
        async with two(*PAIRS[0]) as here:
            asked = completion(PROMPTS[0], temperature=0, max_tokens=96)
            (text, _), _ = await here.ask(asked, alone=True)
            prediction = {"type": "content", "content": text}
            told = replace(
                asked,
                body={**asked.body, "prediction": prediction},
                features=asked.features | {Feature.PREDICTION},
            )
            for _ in range(20):  # a target this quick may have gone on before the text is cut
                (again, _), report = await here.ask(told, alone=False)
                assert again == text
                if report.accepted and report.alpha is not None and report.alpha > 0.5:
                    return
            pytest.fail("no draft was accepted")

    asyncio.run(story())


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "</s>",
        "<s>[INST]",
        "\x00\x01",
        "🙂" * 40,
        "x" * MAX_DRAFT_TEXT,
        "\ufffd\ufffd",
    ],
    ids=["im_end", "eos", "bos", "control", "emoji", "long", "replacement"],
)
def test_what_a_draft_says_is_text(text: str) -> None:
    """Names of control tokens, odd characters and floods in a draft: the answer is as without."""

    async def story() -> None:
        async with two(*PAIRS[0]) as here:
            request = completion(PROMPTS[0], temperature=0, max_tokens=24)
            (alone, _), _ = await here.ask(request, alone=True)
            session = await here.upstream._connect(
                here.upstream._url,
                upstream="pair",
                zone=here.upstream.upstream.zone,
                call=Call(id="x"),
                clock=here.upstream._target.http.clock(Call(id="x"), streaming=True),
                api_key=None,
                timeout_s=2,
            )
            fingerprint = here.upstream._drafters.fingerprint(None)
            body = {"prompt": PROMPTS[0], "max_tokens": 24, "temperature": 0}
            opened = await session.open(
                Open(
                    model="target",
                    model_fp=fingerprint,
                    endpoint="completion",
                    request={"model": "target", **body},
                    max_width=8,
                    drafts=WAYS,
                )
            )
            assert opened.drafts == "text" and not opened.prompt_ids
            said = b""
            async for message in session.messages():
                said += getattr(message, "text_bytes", b"")
                await session.draft(
                    Draft(epoch=99, base_pos=len(said), text=text.encode()[:MAX_DRAFT_TEXT])
                )
            await session.aclose()
            assert said.decode() == alone

    asyncio.run(story())


@pytest.mark.parametrize(
    "fields",
    [
        {"text": b"\xff\xfe"},
        {"text": b"\xf0\x9f\x99"},
        {"text": b"x" * (MAX_DRAFT_TEXT + 1)},
        {"text": 7},
        {"text": ""},
        {"text": "both", "tokens": [1]},
    ],
    ids=["no UTF-8", "half a character", "too long", "a number", "nothing", "both"],
)
def test_a_draft_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    """Bytes that are no text, more than allowed, nothing, or two things at once."""
    import msgpack

    raw = {"type": "draft", "epoch": 0, "base_pos": 0, **fields}
    with pytest.raises(MalformedMessage):
        parse(msgpack.packb(raw))


def test_both_ends_agree_on_the_way() -> None:
    """What was said about drafts survives the wire; who does not know of text gets tokens."""
    draft = Draft(epoch=1, base_pos=4, text="é".encode())
    assert parse(pack(draft)) == draft
    assert Opened(session="s", token="t").drafts == "tokens"


@given(st.text("ab é🙂", max_size=40), st.data())
def test_a_line_is_what_was_drafted_beyond_the_target(said: str, data: st.DataObject) -> None:
    """However drafts and the target's text come in: what is left of the line is right where the
    draft is, and the epoch rises only when a draft was wrong."""
    whole = said.encode()
    right = data.draw(st.booleans())
    drafted = said if right else data.draw(st.text("ab é🙂", max_size=40))
    text, line = drafted.encode(), TextLine()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(drafted)), max_size=3)))
    for low, high in zip([0, *cuts], [*cuts, len(drafted)], strict=True):
        line.put(0, len(drafted[:low].encode()), drafted[low:high].encode())
    assert line.rest == text
    done = 0
    while done < len(whole):
        step = data.draw(st.integers(1, 5))
        line.commit(whole[done : done + step])
        done = min(done + step, len(whole))
        if line.rest:
            assert text.startswith(whole[: line.end]) and line.rest == text[line.end :]
    agrees = text.startswith(whole) or whole.startswith(text)
    assert (line.epoch == 0) == agrees


PIECES = {1: b"a", 2: b"b", 3: b"ab", 4: b" a", 5: b" ", 6: b"ba", 7: b" ab"}


def cut(text: bytes) -> list[int]:
    """Longest match, as a tokenizer has it."""
    tokens = []
    while text:
        token = max(
            (t for t, p in PIECES.items() if text.startswith(p)), key=lambda t: len(PIECES[t])
        )
        tokens.append(token)
        text = text[len(PIECES[token]) :]
    return tokens


@given(st.lists(st.sampled_from(sorted(PIECES)), max_size=12), st.text("ab ", max_size=24))
def test_the_drafter_is_brought_to_what_is_settled(guesses: list[int], said: str) -> None:
    """Whatever it guessed and however the target's text comes: once what is wanted is cut and
    taken, its tokens spell the settled text, and it is told them all, once and in order."""
    alignment, told = Alignment(), list[int]()
    alignment.guess(0, 0, guesses, [PIECES[each] for each in guesses])
    settled = said.encode()
    for at in range(0, len(settled), 3):
        alignment.settle(at, settled[at : at + 3])
        while (wanted := alignment.wanted) is not None:
            keep, text = wanted
            tokens = cut(text)
            assert alignment.fit(keep, text, tokens, [PIECES[each] for each in tokens])
        if (news := alignment.news()) is not None:
            base, tokens_told = news
            del told[base:]
            told.extend(tokens_told)
        spelt = b"".join(PIECES[each] for each in alignment.tokens)
        assert spelt.startswith(settled[: at + 3]) or settled[: at + 3].startswith(spelt)
        assert settled.startswith(b"".join(PIECES[each] for each in told)[: at + 3])
