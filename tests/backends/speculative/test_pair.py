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
from backends.engine.backend import BUNDLED, LlamaCppBackend, LlamaCppOptions
from backends.openai import OpenAIBackend, OpenAIOptions
from backends.speculative.backend import SpeculativeBackend, SpeculativeOptions
from gateway.companion import CompanionEndpoint, resolver
from gateway.core.chat import ChatRequest
from gateway.core.events import Event, Finish, SpeculationReport, TextDelta, UsageReport
from gateway.core.exchange import Call, Caller
from gateway.dialects.openai_completions import OpenAICompletions
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
