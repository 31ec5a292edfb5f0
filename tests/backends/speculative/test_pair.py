"""Two real models over a real WebSocket: the answer is the target's own, byte for byte.

With the bundled pair; where that is missing, with a small story model as both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.base import Resources
from backends.clocks import Clock, Timeouts
from backends.engine.audit import TIE
from backends.engine.backend import LlamaCppBackend
from backends.engine.client import Engine
from backends.engine.options import BUNDLED, LlamaCppOptions
from backends.engine.protocol import Job, SamplerSettings
from backends.engine.settings import EngineSettings
from backends.openai import OpenAIBackend, OpenAIOptions
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.client import NoSession, Session, session_url
from backends.speculative.options import SpeculativeOptions
from backends.speculative.session import Open
from gateway.companion import CompanionEndpoint
from gateway.companion_open import resolver
from gateway.core.chat import ChatRequest
from gateway.core.events import (
    Event,
    Finish,
    SpeculationReport,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from gateway.core.exchange import Call, Caller
from gateway.core.routing import Zone
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from tests.fakes.gguf_models import write_model
from tests.fakes.serving import serving

STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260K-q8_0.gguf"
PAIR = ("bundled:draft", "bundled:target")
HAVE_PAIR = all(
    (BUNDLED / f"tandem-demo-{name}-q8_0.gguf").is_file() for name in ("draft", "target")
)

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
    ),
    pytest.mark.skipif(
        not HAVE_PAIR and not STORIES.is_file(), reason="neither the bundled pair nor ../shared"
    ),
]

CALL = Call(id="req_1")
PROMPTS = [
    "import os\n\ndef main():\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "Once upon a time, there was a little",
    "def read_json(path):\n    with open(path) as file:\n",
    "for i in range(10):\n    print(",
    "naïve café — ünïcödé “",
]


def model(name: str, *, strict: bool) -> LlamaCppBackend:
    file = f"bundled:{name}" if HAVE_PAIR else STORIES.name
    options = LlamaCppOptions(kind="llama_cpp", model=file, strict=strict, threads=1, context=512)
    return LlamaCppBackend(name, options, Resources(model_dir=STORIES.parent))


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[SpeculativeBackend, LlamaCppBackend]]:
    """The speculative backend, and its target for asking it alone."""
    target, draft = model("target", strict=True), model("draft", strict=False)
    await asyncio.gather(target.start(), draft.start())
    endpoint = CompanionEndpoint(
        guard=lambda method, headers: None,
        authenticate=lambda headers: Caller(),
        resolve=resolver({"target": target}),
    )
    try:
        async with serving(endpoint) as base_url:
            cloud = OpenAIBackend(
                "cloud",
                OpenAIOptions(kind="companion", base_url=base_url, model="target"),
                Resources(),
            )
            settings = SpeculativeOptions(
                kind="speculative", draft="draft", target="cloud", **options
            )
            parts = Resources(backends={"draft": draft, "cloud": cloud})
            yield SpeculativeBackend("pair", settings, parts), target
            await cloud.aclose()
    finally:
        await asyncio.gather(target.aclose(), draft.aclose())


def completion(prompt: str, **fields: Any) -> ChatRequest:
    body = {"model": "tandem", "prompt": prompt, "max_tokens": 64, **fields}
    return OpenAICompletions().decode(body, {})


class Said:
    """An answer: what must be equal, and how it came about."""

    def __init__(self, events: list[Event]) -> None:
        self.text = "".join(event.text for event in events if isinstance(event, TextDelta))
        self.finish = [event.reason for event in events if isinstance(event, Finish)]
        self.usage = [
            event.usage.completion_tokens for event in events if isinstance(event, UsageReport)
        ]
        self.reports = [event for event in events if isinstance(event, SpeculationReport)]

    @property
    def same(self) -> tuple[str, list[str], list[int]]:
        return self.text, self.finish, self.usage


async def ask(backend: SpeculativeBackend | LlamaCppBackend, request: ChatRequest) -> Said:
    async with asyncio.timeout(60):
        return Said([event async for event in backend.stream(request, CALL)])


def test_strict_speculation_is_the_target_alone() -> None:
    """Greedy, sampled with a seed, and with penalties and stops: no byte differs, drafts or not."""
    ways: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 11, "top_p": 0.95},
        {"temperature": 0.8, "seed": 5, "presence_penalty": 0.7, "stop": ["\n\n"]},
    ]

    async def scenario() -> int:
        drafted = 0
        async with pair(always=True) as (speculative, target):
            for way in ways:
                for prompt in PROMPTS:
                    request = completion(prompt, **way)
                    alone = await ask(target, request)
                    together = await ask(speculative, request)
                    assert together.same == alone.same, (prompt, way)
                    [report] = together.reports
                    assert report.strategy == "companion"
                    drafted += report.drafted
        return drafted

    assert asyncio.run(scenario()) > 0, "no draft was ever verified: nothing was shown"


def test_the_draft_worker_is_killed() -> None:
    """kill -9 of the drafter's worker in mid-answer: the same bytes, from the target alone."""

    async def scenario() -> None:
        request = completion(PROMPTS[0], temperature=0, max_tokens=200)
        async with pair(always=True) as (speculative, target):
            alone = await ask(target, request)
            drafter = speculative._draft
            assert isinstance(drafter, LlamaCppBackend)
            events: list[Event] = []
            async for event in speculative.stream(request, CALL):
                if not events:
                    assert drafter.engine.pid is not None
                    os.kill(drafter.engine.pid, signal.SIGKILL)
                    async with asyncio.timeout(20):
                        while drafter.engine.pid is not None:
                            await asyncio.sleep(0.01)
                    await asyncio.sleep(0)  # the drafter hears of it in its own task
                events.append(event)
            together = Said(events)
            assert together.same == alone.same
            assert together.reports[0].strategy == "companion;draft-lost"

    asyncio.run(scenario())


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer"},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            },
            "required": ["name", "age", "tags"],
        },
    },
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
            },
        },
    }
]
FORMS: dict[str, dict[str, Any]] = {
    "json schema": {"response_format": SCHEMA},
    "json object": {"response_format": {"type": "json_object"}},
    "a tool that must be called": {"tools": TOOLS, "tool_choice": "required"},
    "a tool that may be called": {"tools": TOOLS},
    "gbnf": {"grammar": 'root ::= ("a" | "the") (" " [a-z]+)+ "."'},
    "stops and a bias": {"stop": ["e", "\n\n"], "logit_bias": {"40": -5}},
    "penalties": {"frequency_penalty": 0.8, "presence_penalty": 0.4},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_exact(form: str) -> None:
    """Schemas, tool calls, grammars, penalties, biases and stops: with drafts, the same events as
    from the target alone, greedy and sampled."""

    def events_of(events: list[Event]) -> list[object]:
        calls = [e for e in events if isinstance(e, ToolCallDelta)]
        name = "".join(call.name or "" for call in calls)
        arguments = "".join(call.arguments for call in calls)
        said = Said(events)
        return [said.text, said.finish, said.usage, name, arguments]

    async def scenario() -> None:
        if not HAVE_PAIR:
            pytest.skip("the bundled pair is not here: a story model has no chat template")
        drafted = 0
        async with pair(always=True) as (speculative, target):
            for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 4, "top_p": 0.95}):
                for content in ("Give me a person as JSON.", "What is the weather in Rome?"):
                    body = {
                        "model": "tandem",
                        "messages": [{"role": "user", "content": content}],
                        "max_tokens": 80,
                        **sampling,
                        **FORMS[form],
                    }
                    request = OpenAIChat().decode(body, {})
                    alone = [event async for event in target.stream(request, CALL)]
                    together = [event async for event in speculative.stream(request, CALL)]
                    assert events_of(together) == events_of(alone)
                    [report] = Said(together).reports
                    assert report.strategy.startswith("companion"), "no session came about"
                    drafted += report.drafted
        assert drafted > 0

    asyncio.run(scenario())


def test_a_shared_seed_makes_drafts_hold() -> None:
    """Sampled at temperature 0.8 without a seed: the companion gives one, and the target's own
    model as a drafter is then right nearly always, as it never is by chance."""

    async def scenario() -> None:
        target = model("target", strict=True)
        drafter = model("target", strict=False)
        await asyncio.gather(target.start(), drafter.start())
        endpoint = CompanionEndpoint(
            guard=lambda method, headers: None,
            authenticate=lambda headers: Caller(),
            resolve=resolver({"target": target}),
        )
        try:
            async with serving(endpoint) as base_url:
                cloud = OpenAIBackend(
                    "cloud",
                    OpenAIOptions(kind="companion", base_url=base_url, model="target"),
                    Resources(),
                )
                settings = SpeculativeOptions(
                    kind="speculative", draft="draft", target="cloud", always=True
                )
                parts = Resources(backends={"draft": drafter, "cloud": cloud})
                speculative = SpeculativeBackend("pair", settings, parts)
                drafted = accepted = 0
                texts = set()
                for _ in range(4):
                    said = await ask(speculative, completion(PROMPTS[2], temperature=0.8))
                    texts.add(said.text)
                    drafted += said.reports[0].drafted
                    accepted += said.reports[0].accepted
                assert len(texts) > 1, "every answer had the same seed"
                assert accepted >= 0.95 * drafted > 0
                await cloud.aclose()
        finally:
            await asyncio.gather(target.aclose(), drafter.aclose())

    asyncio.run(scenario())


def test_a_model_that_cannot_rewind_is_refused(tmp_path: Path) -> None:
    """A recurrent and a hybrid target: the session is refused by name, and the edge streams."""

    async def scenario(architecture: str) -> None:
        path = write_model(tmp_path / f"{architecture}.gguf", architecture)
        options = LlamaCppOptions(kind="llama_cpp", model=path.name, threads=1, context=128)
        target = LlamaCppBackend("target", options, Resources(model_dir=tmp_path))
        await target.start()
        endpoint = CompanionEndpoint(
            guard=lambda method, headers: None,
            authenticate=lambda headers: Caller(),
            resolve=resolver({"target": target}),
        )
        try:
            assert target.engine.ready is not None, target.engine.detail
            assert target.engine.ready.promised == ""
            async with serving(endpoint) as base_url:
                clock = Clock("cloud", Timeouts(), CALL, streaming=True)
                session = await Session.connect(
                    session_url(base_url), upstream="cloud", zone=Zone.MACHINE, call=CALL,
                    clock=clock, api_key=None, timeout_s=2.0,
                )  # fmt: skip
                with pytest.raises(NoSession) as caught:
                    await session.open(Open(prompt_ids=(5, 6, 7)))
                assert (caught.value.reason, caught.value.lasting) == ("cannot_rewind", True)
                await session.aclose()
        finally:
            await target.aclose()

    for architecture in ("mamba", "jamba"):
        asyncio.run(scenario(architecture))


@pytest.mark.parametrize("file", ["stories260K-f32.gguf", "stories260K-q4_0.gguf", "bundled"])
def test_fast_mode_differs_only_at_ties(file: str) -> None:
    """Not strict: where drafts change a token at all, its margin is less than a batch's rounding,
    and the passes say so."""

    async def scenario() -> int:
        path = (
            BUNDLED / "tandem-demo-target-q8_0.gguf" if file == "bundled" else STORIES.parent / file
        )
        if not path.is_file():
            pytest.skip(f"no {file} here")
        engine = Engine(EngineSettings(model=str(path), context=512, slots=2, cached=0))
        await engine.start()
        differences = 0
        try:
            assert engine.ready is not None and engine.ready.epsilon is not None
            assert engine.ready.promised == "tie-tolerant"
            vocab = engine.ready.vocab
            for number in range(12):
                sampler = SamplerSettings(temperature=0.8 * (number % 2), seed=number)
                job = Job(
                    id=0, tokens=tuple((31 * i * (number + 1) + 7) % (vocab - 9) + 5
                                       for i in range(4 + number)),
                    max_tokens=120, role="target", sampler=sampler,
                )  # fmt: skip
                alone = await _passes(engine, job, [])
                right = [token for token, _ in alone]
                drafted = await _passes(engine, job, right)
                for (one, margin), (other, other_margin) in zip(alone, drafted, strict=False):
                    if one != other:
                        differences += 1
                        assert min(margin, other_margin) < max(engine.ready.epsilon, TIE)
                        break
        finally:
            await engine.aclose()
        return differences

    asyncio.run(scenario())


async def _passes(engine: Engine, job: Job, right: list[int]) -> list[tuple[int, float]]:
    """Each token, and the margin that its pass had."""
    said: list[tuple[int, float]] = []
    sequence = await engine.submit(job)
    try:
        async for output in sequence:
            assert output.margin is not None
            said += [(token, output.margin) for token in output.tokens]
            at = len(said)
            for place in (at, at + 1, at + 2):
                if right[place : place + 8] and output.finish is None:
                    sequence.draft(output.epoch, place, right[place : place + 8])
        return said
    finally:
        await sequence.aclose()
