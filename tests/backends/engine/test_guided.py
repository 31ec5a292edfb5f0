"""Answers whose form is asked for, from real weights: always valid, whatever the model says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from backends.engine.client import Engine
from backends.engine.constrained import ConstrainedSampler, Greedy, NothingFits
from backends.engine.grammar import json_schema
from backends.engine.options import LlamaCppOptions
from backends.engine.protocol import Job, Output, SamplerSettings
from backends.engine.settings import EngineSettings
from gateway.core.chat import ChatRequest, Choice, Endpoint, Feature, Message, Sampling
from gateway.core.errors import InvalidRequest, Unsupported
from gateway.core.events import collect
from gateway.core.exchange import Call
from tests.fakes.schemas import schema

CALL = Call(id="test")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 16},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NEEDS = {
    "tools": Feature.TOOLS,
    "response_format": Feature.JSON_MODE,
    "grammar": Feature.GRAMMAR,
}


@asynccontextmanager
async def running(model: Path) -> AsyncIterator[LlamaCppBackend]:
    options = LlamaCppOptions(kind="llama_cpp", model=str(model))
    backend = LlamaCppBackend("local", options, Resources())
    try:
        await backend.start()
        yield backend
    finally:
        await backend.aclose()


def chat(
    *turns: dict[str, Any], temperature: float = 1.0, max_tokens: int = 256, **body: Any
) -> ChatRequest:
    messages = turns or ({"role": "user", "content": "What is the weather in Paris?"},)
    return ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="local",
        messages=tuple(
            Message(role=turn["role"], text=turn.get("content") or "", raw=turn)
            for turn in messages
        ),
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature, seed=7),
        features=frozenset({Feature.CHAT, *(NEEDS[name] for name in body if name in NEEDS)}),
        body=body,
    )


async def answer(backend: LlamaCppBackend, request: ChatRequest) -> Choice:
    events = backend.stream(request, CALL)
    try:
        return (await collect(events)).choices[0]
    finally:
        await events.aclose()


def test_forty_schemas_on_the_bundled_pair(bundled_draft: Path) -> None:
    """At temperature 1 a tiny model's answers are documents of whatever schema is asked for."""

    async def main() -> None:
        async with running(bundled_draft) as backend:
            whole = 0
            for seed in range(40):
                wanted = schema(random.Random(seed))
                said = await answer(
                    backend,
                    chat(
                        response_format={
                            "type": "json_schema",
                            "json_schema": {"name": "x", "schema": wanted},
                        }
                    ),
                )
                if said.finish_reason == "stop":
                    whole += 1
                    jsonschema.Draft202012Validator(wanted).validate(json.loads(said.text))
                else:
                    assert said.finish_reason == "length"
            assert whole >= 25

    asyncio.run(main())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_forced_calls(any_model: Path, temperature: float, choice: Any) -> None:
    """A required or named call comes from any model, with a template for tools or without one."""

    async def main() -> None:
        async with running(any_model) as backend:
            request = chat(
                tools=[WEATHER],
                tool_choice=choice,
                parallel_tool_calls=False,
                temperature=temperature,
            )
            said = await answer(backend, request)
            (call,) = said.tool_calls
            assert (said.text, said.finish_reason) == ("", "tool_calls")
            assert call.name == "get_weather"
            assert call.id.startswith("call_")
            jsonschema.validate(
                json.loads(call.arguments),
                WEATHER["function"]["parameters"],  # type: ignore[index]
            )

    asyncio.run(main())


def test_auto_leaves_text_alone(bundled_target: Path) -> None:
    """With tool_choice none the model hears of no tools; with auto it may still just talk."""

    async def main() -> None:
        async with running(bundled_target) as backend:
            none = chat(tools=[WEATHER], tool_choice="none", temperature=0.0, max_tokens=16)
            free = chat(temperature=0.0, max_tokens=16)
            assert await backend.prompt(none) == await backend.prompt(free)
            assert await answer(backend, none) == await answer(backend, free)
            assert len(await backend.prompt(chat(tools=[WEATHER]))) > len(
                await backend.prompt(free)
            )
            for seed in range(12):
                said = await answer(backend, chat(tools=[WEATHER], tool_choice="auto"))
                assert "<tool_call>" not in said.text, seed
                assert (said.finish_reason == "tool_calls") == bool(said.tool_calls)

    asyncio.run(main())


def test_results_go_back_into_the_prompt(any_model: Path) -> None:
    """Calls and their results in the history are rendered, arguments as JSON exactly once."""

    async def main() -> None:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        }
        async with running(any_model) as backend:
            plain = {"role": "user", "content": "Weather?"}
            said = {"role": "assistant", "content": None, "tool_calls": [call]}
            result = {"role": "tool", "tool_call_id": "call_1", "content": "19 C"}
            with_result = await backend.prompt(chat(plain, said, result, tools=[WEATHER]))
            without = await backend.prompt(chat(plain, tools=[WEATHER]))
            assert len(with_result) > len(without)
            broken = {**said, "tool_calls": [{"id": "x"}]}
            with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_calls\[0\]"):
                await backend.prompt(chat(plain, broken, tools=[WEATHER]))

    asyncio.run(main())


def test_raw_grammar(any_model: Path) -> None:
    """llama.cpp's own field holds a grammar, and the answer is of it."""

    async def main() -> None:
        async with running(any_model) as backend:
            for temperature in (0.0, 1.0):
                request = chat(grammar='root ::= "yes" | "no" " never"?', temperature=temperature)
                said = await answer(backend, request)
                assert said.text in ("yes", "no", "no never")
                assert said.finish_reason == "stop"

    asyncio.run(main())


def alike(branches: int) -> dict[str, Any]:
    """Arrays of themselves that nobody can tell apart before they end."""
    arrays = [
        {"type": "array", "maxItems": 3 + i, "items": {"$ref": "#/$defs/a"}}
        for i in range(branches)
    ]
    return {
        "type": "object",
        "properties": {"c": {"$ref": "#/$defs/a"}},
        "required": ["c"],
        "$defs": {"a": {"anyOf": [*arrays, {"type": "null"}]}},
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "json_object", "schema": alike(12)}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": alike(99)}}, "response_format"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": alike(12)}}]},
            "tools",
        ),
        ({"grammar": "root ::= nothing"}, "grammar"),
        ({"grammar": 'root ::= root "a"'}, "grammar"),
        ({"grammar": "root ::= " + "(" * 30_000}, "grammar"),
        ({"grammar": 'root ::= ((("a"{999}){999}){999}){999}'}, "grammar"),
        ({"grammar": "root ::= " + "[a-z]* " * 300}, "grammar"),
        ({"grammar": "root ::= <[1]>"}, "grammar"),  # of a token without text
        ({"tools": [{"type": "function"}]}, "tools"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"properties": {"a": {"not": {}}}}},
                }
            },
            "response_format",
        ),
    ],
)
def test_what_cannot_be_done_is_a_400(stories: Path, body: dict[str, Any], param: str) -> None:
    """A grammar that llama.cpp would die of, or a schema without one: 400, and the engine lives."""

    async def main() -> None:
        async with running(stories) as backend:
            with pytest.raises(InvalidRequest) as caught:
                await answer(backend, chat(**body))
            assert caught.value.param == param
            assert (await answer(backend, chat(max_tokens=4))).finish_reason == "length"
            assert backend.engine.restarts == 0

    asyncio.run(main())


def test_functions_of_2023_are_refused(stories: Path) -> None:
    """The fields that `tools` replaced are refused by name, not ignored."""

    async def main() -> None:
        async with running(stories) as backend:
            request = chat(tools=None, functions=[{"name": "f"}])
            with pytest.raises(Unsupported) as caught:
                await answer(backend, request)
            assert caught.value.param == "functions"

    asyncio.run(main())


@pytest.mark.parametrize(
    "settings",
    [SamplerSettings(), SamplerSettings(temperature=1.0, seed=3, presence_penalty=0.5)],
    ids=["greedy", "sampled"],
)
def test_drafts_change_nothing_about_a_grammar(
    bundled_target: Path, settings: SamplerSettings
) -> None:
    """Role target with a grammar: good, bad and ungrammatical drafts give the tokens of none."""

    async def main() -> None:
        wanted = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        engine = Engine(EngineSettings(model=str(bundled_target), strict=True, slots=1))
        job = Job(
            id=0,
            tokens=(50, 60, 70),
            max_tokens=80,
            sampler=settings,
            strict=True,
            role="target",
            grammar=json_schema(wanted),
        )

        seen: list[int] = []

        async def run(drafts: list[int] | None) -> list[int]:
            sequence = await engine.submit(job)
            tokens: list[int] = []
            drafted = 0
            try:
                if drafts is not None:
                    sequence.draft(0, 0, drafts[:8])
                async for output in sequence:
                    assert isinstance(output, Output)
                    tokens += output.tokens
                    drafted += output.drafted
                    if drafts is not None and output.finish is None:
                        at = len(tokens)
                        sequence.draft(output.epoch, at, drafts[at : at + 8])
            finally:
                await sequence.aclose()
            seen.append(drafted)
            return tokens

        try:
            await engine.start()
            alone = await run(None)
            assert await run(alone) == alone
            assert await run([token if i % 3 else 9 for i, token in enumerate(alone)]) == alone
            assert await run([7] * 100) == alone
            assert sum(seen) > 0
        finally:
            await engine.aclose()

    asyncio.run(main())


class EvenOnly:
    """A grammar of even tokens that dies, as llama.cpp's does, of one that it did not allow."""

    def allows(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self, logits: Any) -> Any:
        masked = logits.copy()
        masked[1::2] = -np.inf
        return masked

    def accept(self, token: int) -> None:
        assert self.allows(token), "llama.cpp would have ended the process"

    def close(self) -> None:
        pass


class Stubborn(Greedy):
    """A sampler that says 3 whatever has a probability."""

    def choose(self, logits: Any) -> int:
        return 3


def test_only_what_fits_is_accepted() -> None:
    """The first choice is taken if it fits; else one that does, even from a faulty sampler."""
    logits = np.array([0.0, 9.0, 1.0, 5.0, 2.0], np.float32)
    nothing = np.zeros(5, bool)
    hidden = np.array([False, False, False, False, True])
    assert ConstrainedSampler(Greedy(), EvenOnly(), nothing)(logits) == 4
    assert ConstrainedSampler(Greedy(), EvenOnly(), hidden)(logits) == 2
    assert ConstrainedSampler(Stubborn(), EvenOnly(), nothing)(logits) == 4
    with pytest.raises(NothingFits):
        ConstrainedSampler(Greedy(), EvenOnly(), ~nothing)(logits)


@pytest.mark.parametrize("slow", [(11.5, 11.5), (10.0, 10.2)], ids=["choosing", "accepting"])
def test_an_ambiguous_grammar_ends_its_own_answer(slow: tuple[float, float]) -> None:
    """A choice that takes too long is the grammar's last, and so is a token that is hard to take
    in: the next one would be far harder."""
    times = iter([0.0, 0.5, 0.5, 10.0, *slow])
    nothing = np.zeros(4, bool)
    sampler = ConstrainedSampler(Greedy(), EvenOnly(), nothing, clock=lambda: next(times))
    logits = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    assert sampler(logits) == 0
    with pytest.raises(NothingFits, match="ambiguous"):
        sampler(logits)


def test_json_object_with_a_schema(stories: Path) -> None:
    """`json_object` with a schema beside it, llama.cpp's way of asking, gives its documents."""

    async def main() -> None:
        async with running(stories) as backend:
            wanted = {"type": "json_object", "schema": {"enum": [[1], [2]]}}
            assert (await answer(backend, chat(response_format=wanted))).text in ("[1]", "[2]")

    asyncio.run(main())


def test_members_come_in_the_order_of_the_schema_that_was_sent(stories: Path) -> None:
    """Two schemas that differ only in the order of their members give different answers."""

    async def main() -> None:
        async with running(stories) as backend:
            for names in ("ab", "ba"):
                properties = {name: {"const": 1} for name in names}
                wanted = {"type": "object", "properties": properties, "required": list("ab")}
                form = {"type": "json_schema", "json_schema": {"schema": wanted}}
                said = await answer(backend, chat(response_format=form))
                assert list(json.loads(said.text)) == list(names)

    asyncio.run(main())


def test_a_stop_string_inside_arguments_is_no_call(any_model: Path) -> None:
    """A call that a stop string cut short does not end with `tool_calls`: nobody should run it."""

    async def main() -> None:
        async with running(any_model) as backend:
            request = chat(tools=[WEATHER], tool_choice="required")
            request = replace(request, sampling=replace(request.sampling, stop=("city",)))
            said = await answer(backend, request)
            assert [call.name for call in said.tool_calls] == ["get_weather"]
            assert said.finish_reason == "stop"

    asyncio.run(main())


def test_more_choices_than_the_queue_holds(stories: Path) -> None:
    """They are refused for good, not as an overload that a client would try again."""

    async def main() -> None:
        async with running(stories) as backend:
            with pytest.raises(InvalidRequest) as caught:
                await answer(backend, chat(n=100))
            assert caught.value.param == "n"

    asyncio.run(main())


def test_raw_grammars_can_be_switched_off(stories: Path) -> None:
    """An operator who does not trust the clients takes the field away; it is then refused."""
    options = LlamaCppOptions(kind="llama_cpp", model=str(stories), raw_grammars=False)
    upstream = LlamaCppBackend("local", options, Resources()).upstream
    assert Feature.GRAMMAR not in upstream.features
    assert Feature.TOOLS in upstream.features
